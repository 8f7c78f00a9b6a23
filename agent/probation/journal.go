package probation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Sentinels of the journal.
var (
	// ErrNoRecord: nothing was ever journaled here.
	ErrNoRecord = errors.New("no journal yet")
	// ErrCorrupt: neither the newest record nor the one before can be read.
	ErrCorrupt = errors.New("the journal is damaged")
)

// Journal keeps the newest Record. Append returns nil only when the record will survive a loss of
// power; after an error the one before is still there. The caller serialises calls.
type Journal interface {
	// Load returns ErrNoRecord when there is none.
	Load() (Record, error)
	// Append may use reserved space for an urgent record, one without which harm cannot be undone.
	Append(r Record, urgent bool) error
}

// magic begins a journal file: name, version of the format, checksum and length of what follows.
const magic = "perf-journal"

const formatVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the record as it stands in a journal file.
func Encode(r Record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	head := fmt.Sprintf("%s %d %08x %d\n", magic, formatVersion, crc32.Checksum(body, castagnoli), len(body))
	return append(append([]byte(head), body...), '\n'), nil
}

// Decode reads what Encode wrote. Anything else, a single changed bit included, is ErrCorrupt.
func Decode(raw []byte) (Record, error) {
	var (
		name    string
		version int
		sum     uint32
		size    int
	)
	head, body, ok := bytes.Cut(raw, []byte("\n"))
	if !ok {
		return Record{}, fmt.Errorf("%w: no header", ErrCorrupt)
	}
	if _, err := fmt.Sscanf(string(head), "%s %d %x %d", &name, &version, &sum, &size); err != nil || name != magic {
		return Record{}, fmt.Errorf("%w: not a journal", ErrCorrupt)
	}
	if version != formatVersion {
		return Record{}, fmt.Errorf("%w: format %d is not known to this version of perf-agent", ErrCorrupt, version)
	}
	body, terminated := bytes.CutSuffix(body, []byte("\n"))
	if !terminated || len(body) != size || crc32.Checksum(body, castagnoli) != sum {
		return Record{}, fmt.Errorf("%w: torn or changed", ErrCorrupt)
	}
	var r Record
	if err := json.Unmarshal(body, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if r.Phase < Idle || r.Phase > Quarantined {
		return Record{}, fmt.Errorf("%w: unknown phase %d", ErrCorrupt, r.Phase)
	}
	return r, nil
}

// Names of the journal's files. The reserve holds space for the records of a revert, which must
// not fail because a disk filled up meanwhile.
const (
	currentFile  = "journal"
	previousFile = "journal.previous"
	tempFile     = "journal.new"
	reserveFile  = "journal.reserve"
	probeFile    = "journal.writable"
	reserveBytes = 256 << 10
)

// FileJournal is a Journal in a folder of its own.
type FileJournal struct {
	dir   string
	write func(f *os.File, b []byte) error
}

// OpenJournal opens or creates the journal in dir. Its errors say what to do.
func OpenJournal(dir string) (*FileJournal, error) {
	j := &FileJournal{dir: dir, write: writeAndSync}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", inWords(dir, err))
	}
	if err := j.reserve(); err != nil {
		return nil, fmt.Errorf("open journal: %w", inWords(dir, err))
	}
	return j, nil
}

// reserve sets space aside. A disk that is full already is an error only for an instance without a
// record: one with a record may have something to revert.
func (j *FileJournal) reserve() error {
	if info, err := os.Stat(filepath.Join(j.dir, reserveFile)); err == nil && info.Size() == reserveBytes {
		return j.replace(probeFile, nil) // is the folder writable?
	}
	err := j.replace(reserveFile, make([]byte, reserveBytes))
	if errors.Is(err, syscall.ENOSPC) {
		if _, loadErr := j.Load(); loadErr == nil {
			return nil
		}
	}
	return err
}

// Load returns the newest readable record.
func (j *FileJournal) Load() (Record, error) {
	r, err := j.read(currentFile)
	if err == nil {
		return r, nil
	}
	previous, previousErr := j.read(previousFile)
	switch {
	case previousErr == nil:
		return previous, nil
	case errors.Is(err, fs.ErrNotExist) && errors.Is(previousErr, fs.ErrNotExist):
		return Record{}, ErrNoRecord
	case errors.Is(err, fs.ErrNotExist):
		err = previousErr
	}
	return Record{}, fmt.Errorf("%w; the engine is left as it is. If it runs as the operator started it, move %s away and start again", err, j.dir)
}

func (j *FileJournal) read(name string) (Record, error) {
	raw, err := os.ReadFile(filepath.Join(j.dir, name))
	if err != nil {
		return Record{}, fmt.Errorf("read journal: %w", err)
	}
	r, err := Decode(raw)
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", filepath.Join(j.dir, name), err)
	}
	return r, nil
}

// Append replaces the newest record; the one before stays beside it. On a full disk the reserve is
// given up for an urgent record.
func (j *FileJournal) Append(r Record, urgent bool) error {
	raw, err := Encode(r)
	if err != nil {
		return err
	}
	err = j.replace(currentFile, raw)
	if errors.Is(err, syscall.ENOSPC) && urgent {
		if os.Remove(filepath.Join(j.dir, reserveFile)) == nil {
			err = j.replace(currentFile, raw)
		}
	}
	if err != nil {
		return fmt.Errorf("write journal: %w", inWords(j.dir, err))
	}
	return nil
}

// replace writes a file so that at any moment its old or its new content is there, whole.
func (j *FileJournal) replace(name string, raw []byte) error {
	temp := filepath.Join(j.dir, tempFile)
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(j.write(f, raw), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	target, previous := filepath.Join(j.dir, name), filepath.Join(j.dir, previousFile)
	if name != currentFile {
		return errors.Join(os.Rename(temp, target), syncDir(j.dir))
	}
	if err := os.Rename(target, previous); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, os.Remove(temp))
	}
	if err := errors.Join(os.Rename(temp, target), syncDir(j.dir)); err != nil {
		return errors.Join(err, os.Rename(previous, target)) // the record before is the newest again
	}
	return nil
}

func writeAndSync(f *os.File, b []byte) error {
	if n, err := f.Write(b); err != nil {
		return err
	} else if n < len(b) {
		return io.ErrShortWrite
	}
	return f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// inWords adds what to do about the errors that a user can mend.
func inWords(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the disk of %s is full; free some space: %w", dir, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the data folder %s cannot be written; mount it writable or choose another: %w", dir, err)
	}
	return err
}
