package engine

import "testing"

func TestVersionOrder(t *testing.T) {
	ascending := []string{
		"0.8", "0.8.5", "0.8.5.post1", "0.9.0.dev7+g12ab34c", "0.9.0rc1.dev2", "0.9.0rc1", "0.9.0rc2", "0.9.0", "0.10.0",
		"0.32.0.dev1", "0.32.0", "v3.3.6", "3.3.7-dev0", "3.3.7",
	}
	for i := 1; i < len(ascending); i++ {
		a, okA := ParseVersion(ascending[i-1])
		b, okB := ParseVersion(ascending[i])
		if !okA || !okB {
			t.Fatalf("%q or %q is not read", ascending[i-1], ascending[i])
		}
		if a.Compare(b) >= 0 || b.Compare(a) <= 0 {
			t.Errorf("%s is not before %s", ascending[i-1], ascending[i])
		}
	}
	for _, equal := range [][2]string{{"0.32.0", "0.32.0+cpu"}, {"0.32", "0.32.0"}, {"v1.2", "1.2"}, {" 1.2 ", "1.2"}, {"1.0-RC1", "1.0rc1"}} {
		a, okA := ParseVersion(equal[0])
		b, okB := ParseVersion(equal[1])
		if !okA || !okB || a.Compare(b) != 0 {
			t.Errorf("%q is not %q", equal[0], equal[1])
		}
	}
	for _, none := range []string{"", "dev", "main", "1.", "1.x", "latest+1", "1..2", "99999999999999999999"} {
		if v, ok := ParseVersion(none); ok || v.Known() {
			t.Errorf("%q was read as a version", none)
		}
	}
}

func TestVersionWithin(t *testing.T) {
	for _, c := range []struct {
		version, since, gone string
		want                 bool
	}{
		{"0.32.0+cpu", "0.32", "", true},
		{"0.31.9", "0.32", "", false},
		{"0.18.0", "", "0.18", false},
		{"0.17.1.post2", "", "0.18", true},
		{"0.32.0rc1", "0.32", "", true},           // has the release's flags
		{"0.31.1.dev5+gabc", "0.31.1", "", true},  // likewise
		{"0.4.6.post3", "0.4.6.post4", "", false}, // post-releases do count
		{"0.4.6.post4", "0.4.6.post4", "", true},
		{"", "0.32", "", true},  // unknown: taken for the newest
		{"", "", "0.18", false}, // so without what is gone
	} {
		v, _ := ParseVersion(c.version)
		if got := v.Within(c.since, c.gone); got != c.want {
			t.Errorf("%q within [%s, %s): %v", c.version, c.since, c.gone, got)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("0.32.0rc1.dev4+g12ab")
	f.Add("v3.3.7-dev0")
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := ParseVersion(text)
		if ok != v.Known() {
			t.Errorf("%q: ok %v, known %v", text, ok, v.Known())
		}
		if v.Compare(v) != 0 {
			t.Errorf("%q differs from itself", text)
		}
	})
}
