package manifest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fixture is a plugin folder with a signed manifest beside it.
type fixture struct {
	dir, out, private string
	public            ed25519.PublicKey
}

func sign(t testing.TB) fixture {
	t.Helper()
	root := t.TempDir()
	f := fixture{dir: filepath.Join(root, "plugins"), out: filepath.Join(root, "manifest"), private: filepath.Join(root, "key")}
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"perf-engine-a": "one", "perf-engine-b": "two", "notes.txt": "no plugin"} {
		if err := os.WriteFile(filepath.Join(f.dir, name), []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := NewKey(f.private, f.private+".pub"); err != nil {
		t.Fatal(err)
	}
	if err := Sign(f.dir, f.out, f.private); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.public, err = ReadPublicKey(f.private + ".pub"); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSignAndLoad(t *testing.T) {
	f := sign(t)
	m, err := Load(f.out, f.public)
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256([]byte("two"))
	if sum, ok := m.Sum("perf-engine-b"); !ok || !bytes.Equal(sum, want[:]) {
		t.Errorf("perf-engine-b: %x, %v", sum, ok)
	}
	if _, ok := m.Sum("notes.txt"); ok {
		t.Error("a file that is no plugin was signed")
	}
}

func TestVerifyRefuses(t *testing.T) {
	f := sign(t)
	raw, err := os.ReadFile(f.out)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"another checksum", strings.Replace(text, "7692", "7693", 1), ErrSignature},
		{"another name", strings.Replace(text, "perf-engine-a", "perf-engine-c", 1), ErrSignature},
		{"a line less", strings.Join(append(strings.SplitAfter(text, "\n")[:1], strings.SplitAfter(text, "\n")[2:]...), ""), ErrSignature},
		{"text after the signature", text + "x  perf-engine-x\n", ErrFormat},
		{"no signature", text[:strings.Index(text, "signature")], ErrFormat},
		{"empty", "", ErrFormat},
		{"signature of nothing", "\nsignature \n", ErrSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.text == text {
				t.Fatal("the case changes nothing")
			}
			if _, err := Verify([]byte(c.text), f.public); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if _, err := Verify(raw, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("without a key: %v", err)
	}
}

func TestSignedNonsenseIsRefused(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("ab", sha256.Size)
	for name, body := range map[string]string{
		"another header": "perf-agent plugin manifest 2\n",
		"short checksum": header + "\nabcd  perf-engine-a\n",
		"one space":      header + "\n" + sum + " perf-engine-a\n",
		"a path":         header + "\n" + sum + "  ../perf-engine-a\n",
		"no name":        header + "\n" + sum + "  \n",
		"listed twice":   header + "\n" + sum + "  a\n" + sum + "  a\n",
	} {
		raw := body + signatureKey + base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte(body))) + "\n"
		if _, err := Verify([]byte(raw), public); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignFaults(t *testing.T) {
	f := sign(t)
	if err := Sign(f.dir, filepath.Join(f.dir, "manifest"), f.private); err == nil || !strings.Contains(err.Error(), "outside the plugin folder") {
		t.Errorf("a manifest among the plugins: %v", err)
	}
	if err := Sign(t.TempDir(), f.out, f.private); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("an empty folder: %v", err)
	}
	if err := Sign(f.dir, f.out, f.private+".pub"); err == nil || !strings.Contains(err.Error(), "read by others") {
		t.Errorf("the public key to sign with: %v", err)
	}
	if err := NewKey(f.private, f.private+".pub"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a private key was overwritten: %v", err)
	}
	if _, err := ReadPublicKey(f.private); err == nil {
		t.Error("a private key was taken for a public one")
	}
}

// FuzzVerify: no bytes crash the reader, and none pass without the signature.
func FuzzVerify(f *testing.F) {
	fx := sign(f)
	good, err := os.ReadFile(fx.out)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(header + "\n"))
	f.Add([]byte("\nsignature AAAA\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if m, err := Verify(raw, fx.public); err == nil && !bytes.Equal(raw, good) && !bytes.Equal(append(raw, '\n'), good) {
			t.Errorf("accepted %q as %v", raw, m)
		}
		_, _ = parse(raw)
	})
}
