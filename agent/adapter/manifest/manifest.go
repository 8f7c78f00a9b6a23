// Package manifest signs and checks the list of engine plugins that an agent may run.
//
// Whoever can replace a plugin can replace a checksum beside it, so the list lies outside the
// plugin folder and is signed with an Ed25519 key that the agent's host does not hold. The file is
// text:
//
//	perf-agent plugin manifest 1
//	<SHA-256, hex>  perf-engine-vllm
//	…
//	signature <Ed25519 over all bytes before this line, base64>
//
// The package reads and writes files; who trusts which key is the caller's business.
package manifest

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Prefix of every plugin's file name; the rest is the engine's name.
const Prefix = "perf-engine-"

const (
	header       = "perf-agent plugin manifest 1"
	signatureKey = "signature "
	maxSize      = 1 << 20
)

// Faults of a manifest.
var (
	// ErrFormat: the file is not a manifest.
	ErrFormat = errors.New("not a plugin manifest")
	// ErrSignature: it was changed after signing, or signed with another key.
	ErrSignature = errors.New("the manifest's signature does not fit the configured public key")
)

// Manifest is a list of plugins whose signature was checked.
type Manifest struct{ sums map[string][sha256.Size]byte }

// Sum returns the SHA-256 that a plugin's file must have; ok is false when it is not listed.
func (m *Manifest) Sum(file string) (sum []byte, ok bool) {
	s, ok := m.sums[file]
	return s[:], ok
}

// Sign lists the plugins in dir with their checksums and writes the signed list to out, which must
// lie outside dir. keyFile holds the private key (NewKey).
func Sign(dir, out, keyFile string) error {
	if inside(dir, out) {
		return fmt.Errorf("sign plugins: the manifest %s must lie outside the plugin folder %s", out, dir)
	}
	key, err := readPrivateKey(keyFile)
	if err != nil {
		return fmt.Errorf("sign plugins: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, Prefix+"*"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("sign plugins: no %s* in %s; make build puts them there", Prefix, dir)
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, header)
	for _, file := range files { // Glob sorts
		sum, err := sumFile(file)
		if err != nil {
			return fmt.Errorf("sign plugins: %w", err)
		}
		fmt.Fprintf(&b, "%x  %s\n", sum, filepath.Base(file))
	}
	signature := ed25519.Sign(key, b.Bytes())
	fmt.Fprintf(&b, "%s%s\n", signatureKey, base64.StdEncoding.EncodeToString(signature))
	if err := replaceFile(out, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("sign plugins: %w", err)
	}
	return nil
}

// Load reads a manifest and checks its signature.
func Load(file string, key ed25519.PublicKey) (*Manifest, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("plugin manifest: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxSize))
	if err != nil {
		return nil, fmt.Errorf("plugin manifest: %w", err)
	}
	m, err := Verify(raw, key)
	if err != nil {
		return nil, fmt.Errorf("plugin manifest %s: %w", file, err)
	}
	return m, nil
}

// Verify checks a manifest's signature and reads it. Nothing of it is looked at before.
func Verify(raw []byte, key ed25519.PublicKey) (*Manifest, error) {
	if len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: there is no key", ErrSignature)
	}
	at := bytes.LastIndex(raw, []byte("\n"+signatureKey)) + 1
	if at == 0 {
		return nil, fmt.Errorf("%w: it has no signature line", ErrFormat)
	}
	encoded := strings.TrimSuffix(strings.TrimPrefix(string(raw[at:]), signatureKey), "\n")
	signature, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: the signature is not base64", ErrFormat)
	}
	if !ed25519.Verify(key, raw[:at], signature) {
		return nil, ErrSignature
	}
	return parse(raw[:at])
}

func parse(body []byte) (*Manifest, error) {
	lines := bufio.NewScanner(bytes.NewReader(body))
	if !lines.Scan() || lines.Text() != header {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrFormat, header)
	}
	m := &Manifest{sums: map[string][sha256.Size]byte{}}
	for lines.Scan() {
		digits, file, ok := strings.Cut(lines.Text(), "  ")
		raw, err := hex.DecodeString(digits)
		if !ok || err != nil || len(raw) != sha256.Size || file == "" || strings.ContainsAny(file, "/\x00") {
			return nil, fmt.Errorf("%w: bad line %q", ErrFormat, lines.Text())
		}
		if _, twice := m.sums[file]; twice {
			return nil, fmt.Errorf("%w: %s is listed twice", ErrFormat, file)
		}
		m.sums[file] = [sha256.Size]byte(raw)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return m, nil
}

func sumFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// inside reports whether file lies in dir or below it.
func inside(dir, file string) bool {
	d, errD := filepath.Abs(dir)
	f, errF := filepath.Abs(file)
	if errD != nil || errF != nil {
		return false
	}
	rel, err := filepath.Rel(d, f)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// Outside returns an error when a manifest lies in the plugin folder, where whoever can replace a
// plugin can replace the manifest's file too.
func Outside(dir, file string) error {
	if inside(dir, file) {
		return fmt.Errorf("plugin manifest %s lies in the plugin folder; move it out", file)
	}
	return nil
}

// replaceFile writes a file as a whole or not at all.
func replaceFile(file string, content []byte, mode os.FileMode) error {
	temp, err := os.CreateTemp(filepath.Dir(file), ".manifest-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }()
	_, err = temp.Write(content)
	err = errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), file)
}
