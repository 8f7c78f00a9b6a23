package contract

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Strings and numbers under these names are behaviour; all others are shown as "…" and #.
var (
	telling = []string{
		"object", "type", "finish_reason", "role", "owned_by", "message", "detail", "error", "error_type", "msg", "loc", "param", "version", "stop_reason", "matched_stop",
	}
	counting = []string{"code", "http_status_code", "index", "max_model_len", "completion_tokens", "prompt_tokens", "total_tokens", "cached_tokens", "server_load", "length", "dp_rank", "dp_rank_count"}
)

// identity is what differs each time: request numbers, in requests of texts also token counts.
var identity = regexp.MustCompile(`[0-9a-f]{12,}|0x[0-9a-f]+`)

// shape shows a JSON text by its names, types and the values that are behaviour, names sorted. Other
// texts are shown as they are.
func shape(raw []byte) string {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return "(empty)"
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil || d.More() {
		return identity.ReplaceAllString(string(raw), "ID")
	}
	var b strings.Builder
	show(&b, "", v)
	return b.String()
}

func show(b *strings.Builder, name string, v any) {
	switch v := v.(type) {
	case map[string]any:
		maps.DeleteFunc(v, func(_ string, v any) bool { return v == nil }) // as good as absent
		for i, k := range slices.Sorted(maps.Keys(v)) {
			b.WriteString([]string{"{", ","}[min(i, 1)] + k + ":")
			show(b, k, v[k])
		}
		b.WriteString([]string{"}", "{}"}[1-min(len(v), 1)])
	case []any:
		var last string
		b.WriteString("[")
		for _, e := range v {
			var one strings.Builder
			show(&one, name, e)
			if one.String() != last { // alike ones once
				b.WriteString(one.String() + " ")
			}
			last = one.String()
		}
		b.WriteString("]")
	case string:
		if !slices.Contains(telling, name) {
			v = "…"
		}
		b.WriteString(`"` + identity.ReplaceAllString(summary(v), "ID") + `"`)
	case json.Number:
		if !slices.Contains(counting, name) {
			v = "#"
		}
		b.WriteString(v.String())
	case nil:
		b.WriteString("null")
	default:
		fmt.Fprint(b, v)
	}
}

// verdict is the part of a validation library's message that is not a copy of the request.
var verdict = regexp.MustCompile(`'type': '[^']*'|'msg': (?:'[^']*'|"[^"]*")`)

// summary cuts a validation error, which spells out Python objects and files, to what is wrong.
func summary(message string) string {
	head, rest, found := strings.Cut(message, " validation error")
	if _, err := strconv.Atoi(head); !found || err != nil {
		return message
	}
	rest, _, _ = strings.Cut(rest, "\n\n")
	return head + " validation error: " + strings.Join(verdict.FindAllString(rest, -1), ", ")
}

// events reads a stream to its end and shows each event's shape, alike ones in a row once, and how the
// stream ended. seen is told about each event at once.
func events(body io.Reader, seen func()) (shapes []string, end string) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	end = "without [DONE]"
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data:")
		if !ok {
			continue
		}
		seen()
		if strings.TrimSpace(data) == "[DONE]" {
			end = "[DONE]"
			continue
		}
		if s := shape([]byte(data)); len(shapes) == 0 || shapes[len(shapes)-1] != s {
			shapes = append(shapes, s)
		}
	}
	if lines.Err() != nil {
		end = "cut"
	}
	return shapes, end
}
