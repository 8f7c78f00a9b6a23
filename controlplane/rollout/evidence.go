package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// EvidenceDir keeps evidence as files named by their SHA-256.
type EvidenceDir struct{ dir string }

// NewEvidenceDir returns a store in a folder, which is made when the first evidence is filed.
func NewEvidenceDir(dir string) *EvidenceDir { return &EvidenceDir{dir: dir} }

func hashOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Put implements Evidence. A file is there whole or not at all.
func (d *EvidenceDir) Put(content []byte) (string, error) {
	hash := hashOf(content)
	path := filepath.Join(d.dir, hash+".json")
	if _, err := os.Stat(path); err == nil {
		return hash, nil
	}
	if err := os.MkdirAll(d.dir, 0o750); err != nil {
		return "", fmt.Errorf("make evidence folder: %w", err)
	}
	f, err := os.CreateTemp(d.dir, ".new-*")
	if err != nil {
		return "", fmt.Errorf("file evidence: %w", err)
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("file evidence: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return hash, nil
}
