package wire

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, body string
		chat       bool
		tokens     int // of the prompt; -1: refused
	}{
		{"text", `{"prompt":"a b c"}`, false, 3},
		{"one text in a list", `{"prompt":["a b"]}`, false, 2},
		{"token numbers", `{"prompt":[5,6,7,8]}`, false, 4},
		{"several texts", `{"prompt":["a","b"]}`, false, -1},
		{"no prompt", `{}`, false, -1},
		{"several answers", `{"prompt":"a","n":2}`, false, -1},
		{"no tokens wanted", `{"prompt":"a","max_tokens":0}`, false, -1},
		{"not JSON", `{`, false, -1},
		{"chat", `{"messages":[{"role":"user","content":"a b"}]}`, true, 4},
		{"chat in parts", `{"messages":[{"role":"user","content":[{"type":"text","text":"a b"},{"type":"text","text":"c"}]}]}`, true, 5},
		{"chat without messages", `{"messages":[]}`, true, -1},
		{"chat with a number", `{"messages":[{"role":"user","content":7}]}`, true, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, err := Read(httptest.NewRequest("POST", "/", strings.NewReader(c.body)), c.chat)
			if c.tokens < 0 {
				if !errors.Is(err, ErrBody) {
					t.Errorf("error %v, want %v", err, ErrBody)
				}
				return
			}
			if err != nil || q.Prompt(16).Tokens != c.tokens {
				t.Errorf("%d tokens, %v; want %d", q.Prompt(16).Tokens, err, c.tokens)
			}
		})
	}
}

func TestOutputStopsByItselfUnlessTold(t *testing.T) {
	p := Request{Parts: []string{"a b c"}}.Prompt(16)
	natural := p.NaturalLength()
	if n, why := (Request{}).Output(p, natural+1); n != natural || why != "stop" {
		t.Errorf("%d, %s; want %d, stop", n, why, natural)
	}
	if n, why := (Request{IgnoreEOS: true}).Output(p, natural+1); n != natural+1 || why != "length" {
		t.Errorf("%d, %s; want %d, length", n, why, natural+1)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{"prompt":"a"}`, false)
	f.Add(`{"messages":[{"role":"user","content":[{"text":"x"}]}],"max_tokens":-1}`, true)
	f.Fuzz(func(t *testing.T, body string, chat bool) {
		q, err := Read(httptest.NewRequest("POST", "/", strings.NewReader(body)), chat)
		if err == nil {
			q.Prompt(16)
		} else if !errors.Is(err, ErrBody) {
			t.Errorf("%q: %v", body, err)
		}
	})
}
