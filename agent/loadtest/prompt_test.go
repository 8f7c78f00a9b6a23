package loadtest

import (
	"slices"
	"strings"
	"testing"
)

func TestPromptsShareBlocks(t *testing.T) {
	shared := []Block{{ID: 7, Tokens: 10}, {ID: 8, Tokens: 10}}
	a, b := promptIDs(30, 1000, shared, 1, 1), promptIDs(25, 1000, shared, 1, 2)
	if len(a) != 30 || len(b) != 25 || !slices.Equal(a[:20], b[:20]) || slices.Equal(a[20:25], b[20:25]) {
		t.Errorf("%v\n%v", a, b)
	}
	if c := promptIDs(30, 1000, []Block{{ID: 9, Tokens: 10}, {ID: 8, Tokens: 10}}, 1, 1); slices.Equal(a[:10], c[:10]) || !slices.Equal(a[10:], c[10:]) {
		t.Errorf("blocks depend on others: %v\n%v", a, c)
	}
	if short := promptIDs(15, 1000, shared, 1, 3); !slices.Equal(short, a[:15]) {
		t.Errorf("cut within a block: %v", short)
	}
	if slices.Max(a) >= 1000 || len(promptIDs(0, 10, nil, 1, 1)) != 1 {
		t.Error("ids out of bounds")
	}
	if w := strings.Fields(prompt(12, shared, 1, 1)); len(w) != 12 {
		t.Errorf("%d words", len(w))
	}
}

func TestTokenIDBodies(t *testing.T) {
	for api, want := range map[API]string{OpenAICompletions: `"prompt":[3,4]`, SGLangGenerate: `"input_ids":[3,4]`} {
		if got, err := api.body("m", "", []int{3, 4}, 7); err != nil || !strings.Contains(string(got), want) || strings.Contains(string(got), `"text"`) {
			t.Errorf("%s: %s, %v", api, got, err)
		}
	}
	_, err := New(Config{Source: &every{}, Vocabulary: 9, Targets: []Target{{URL: "http://a", API: OpenAIChat}, {URL: "http://a", API: TGIGenerateStream}}})
	if err == nil || strings.Count(err.Error(), "takes no token ids") != 2 {
		t.Errorf("error %v", err)
	}
}
