package engine

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

// Version of an engine, as Python packages (0.32.0rc1.dev4+g12ab, 0.4.6.post4, 0.32.0+cpu) and
// others (v3.3.7, 3.3.7-dev0) write it. The zero Version is unknown.
type Version struct {
	release []int
	pre     int // a, b, rc with its number folded in; 0: none
	dev     int // number + 1; 0: none
	post    int // number + 1; 0: none
}

var versionForm = regexp.MustCompile(`^v?(\d{1,9}(?:\.\d{1,9})*)(?:[-._]?(a|b|c|rc|alpha|beta|pre)[-._]?(\d{0,9}))?(?:[-._]?post[-._]?(\d{0,9}))?(?:[-._]?dev[-._]?(\d{0,9}))?(?:\+[0-9A-Za-z.\-_]*)?$`)

// ParseVersion reads a version; ok is false when it is not one.
func ParseVersion(text string) (v Version, ok bool) {
	m := versionForm.FindStringSubmatchIndex(strings.ToLower(strings.TrimSpace(text)))
	if m == nil {
		return Version{}, false
	}
	text = strings.ToLower(strings.TrimSpace(text))
	group := func(i int) (string, bool) {
		if m[2*i] < 0 {
			return "", false
		}
		return text[m[2*i]:m[2*i+1]], true
	}
	release, _ := group(1)
	for part := range strings.SplitSeq(release, ".") {
		v.release = append(v.release, number(part))
	}
	if kind, has := group(2); has {
		n, _ := group(3)
		v.pre = preOrder(kind)*1_000_000 + number(n) + 1
	}
	if n, has := group(4); has {
		v.post = number(n) + 1
	}
	if n, has := group(5); has {
		v.dev = number(n) + 1
	}
	return v, true
}

func number(s string) int {
	n, _ := strconv.Atoi(s) // an absent number counts as 0
	return n
}

func preOrder(kind string) int {
	switch kind {
	case "a", "alpha":
		return 1
	case "b", "beta":
		return 2
	}
	return 3
}

// Known is false for the zero Version.
func (v Version) Known() bool { return v.release != nil }

// Compare orders versions as Python does: 1.0.dev1 < 1.0rc1 < 1.0 < 1.0.post1. What follows a plus
// sign names a build and does not count.
func (v Version) Compare(w Version) int {
	return cmp.Or(
		v.compareRelease(w),
		cmp.Compare(v.preKey(), w.preKey()),
		cmp.Compare(v.post, w.post),
		cmp.Compare(v.devKey(), w.devKey()),
	)
}

func (v Version) compareRelease(w Version) int {
	for i := range max(len(v.release), len(w.release)) {
		if c := cmp.Compare(v.part(i), w.part(i)); c != 0 {
			return c
		}
	}
	return 0
}

func (v Version) part(i int) int {
	if i < len(v.release) {
		return v.release[i]
	}
	return 0
}

// preKey puts a bare development version before any pre-release, and a release after all.
func (v Version) preKey() int {
	switch {
	case v.pre > 0:
		return v.pre
	case v.dev > 0 && v.post == 0:
		return 0
	}
	return 1 << 30
}

func (v Version) devKey() int {
	if v.dev == 0 {
		return 1 << 30
	}
	return v.dev
}

// Within reports whether the version lies in [since, gone). Empty bounds are open. A pre-release
// or development build counts as its release, because it has that release's features. An unknown
// version is taken for a new one: within when gone is empty.
func (v Version) Within(since, gone string) bool {
	if !v.Known() {
		return gone == ""
	}
	v.pre, v.dev = 0, 0
	if s, ok := ParseVersion(since); ok && v.Compare(s) < 0 {
		return false
	}
	if g, ok := ParseVersion(gone); ok && v.Compare(g) >= 0 {
		return false
	}
	return true
}
