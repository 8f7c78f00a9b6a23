package loadtest

import (
	"bytes"
	"encoding/json"
)

// kind of an event's meaning to a client that times tokens.
type kind int

const (
	other   kind = iota // carries no token
	opening             // no token, but written together with the first one (the chat role)
	tokens              // one token or more
	failed              // an error inside a stream whose status is 200
	done                // the stream is complete
)

// verdict is what one event says.
type verdict struct {
	kind kind
	last bool // nothing follows: the stream is complete with this event
	// completion is the exact count of output tokens so far, 0 when not told; prompt likewise.
	completion, prompt int
}

// classify looks for keys in the raw bytes and decodes JSON only where a number is needed. A quote
// inside a JSON string is always escaped, so that `"error":` can only be a key.
func (a API) classify(e event) verdict {
	d := bytes.TrimSpace(e.data)
	if string(d) == "[DONE]" {
		return verdict{kind: done, last: true}
	}
	if string(e.name) == "error" || hasValue(d, `"error":`) || aborted(d, `"finish_reason":`) || a == SGLangGenerate && aborted(d, `"type":`) {
		return verdict{kind: failed}
	}
	switch a {
	case TGIGenerateStream:
		v := verdict{last: hasValue(d, `"generated_text":`)}
		if hasValue(d, `"token":`) {
			v.kind = tokens
		}
		return v
	case SGLangGenerate:
		return classifySGLang(d)
	default:
		return a.classifyOpenAI(d)
	}
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
}

func classifySGLang(d []byte) verdict {
	v := verdict{kind: tokens}
	if u, ok := decodeObject(d, `"meta_info":`); ok {
		v.completion, v.prompt = u.CompletionTokens, u.PromptTokens
	}
	return v
}

func (a API) classifyOpenAI(d []byte) verdict {
	v := verdict{}
	if u, ok := decodeObject(d, `"usage":`); ok {
		v.completion, v.prompt = u.CompletionTokens, u.PromptTokens
	}
	if !hasChoice(d) {
		return v
	}
	text := `"text":`
	if a == OpenAIChat {
		text = `"content":`
	}
	switch {
	case hasText(d, text) || hasText(d, `"reasoning_content":`) || hasText(d, `"reasoning":`):
		v.kind = tokens
	case a == OpenAIChat && hasValue(d, `"role":`):
		v.kind = opening
	case a == OpenAICompletions && !hasValue(d, `"finish_reason":`):
		v.kind = tokens // a piece of a character: the text comes with a later token
	}
	return v
}

// after returns what follows the key, without spaces.
func after(d []byte, key string) ([]byte, bool) {
	_, rest, ok := bytes.Cut(d, []byte(key))
	return bytes.TrimLeft(rest, " \t"), ok
}

// hasValue reports whether the key is there and not null.
func hasValue(d []byte, key string) bool {
	v, ok := after(d, key)
	return ok && !bytes.HasPrefix(v, []byte("null"))
}

// aborted reports whether the key holds "abort": so an engine that shuts down ends a stream, whole in form.
func aborted(d []byte, key string) bool {
	v, ok := after(d, key)
	return ok && bytes.HasPrefix(v, []byte(`"abort"`))
}

// hasText reports whether the key holds a string that is not empty.
func hasText(d []byte, key string) bool {
	v, ok := after(d, key)
	return ok && len(v) > 1 && v[0] == '"' && v[1] != '"'
}

// hasChoice reports whether there is a choice in the list; a usage event has none.
func hasChoice(d []byte) bool {
	v, ok := after(d, `"choices":`)
	if !ok || len(v) == 0 || v[0] != '[' {
		return false
	}
	return !bytes.HasPrefix(bytes.TrimLeft(v[1:], " \t"), []byte("]"))
}

// decodeObject reads token counts from the object under the key, if it holds one.
func decodeObject(d []byte, key string) (usage, bool) {
	v, ok := after(d, key)
	if !ok || len(v) == 0 || v[0] != '{' {
		return usage{}, false
	}
	var u usage
	// A decoder stops at the end of the object; what follows it is of no interest.
	err := json.NewDecoder(bytes.NewReader(v)).Decode(&u)
	return u, err == nil && u.CompletionTokens >= 0 && u.PromptTokens >= 0
}
