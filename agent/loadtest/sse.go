package loadtest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxEvent bounds one event: SGLang repeats the whole text so far in each.
const maxEvent = 4 << 20

var errEventTooLong = errors.New("server-sent event longer than 4 MiB")

// event is one server-sent event. Its bytes are valid until the next is read.
type event struct {
	name []byte
	data []byte
}

// eventReader reads server-sent events without allocating for each.
type eventReader struct {
	r    *bufio.Reader
	name []byte
	data []byte
	line []byte
}

func newEventReader(r io.Reader) *eventReader { return &eventReader{r: bufio.NewReaderSize(r, 16<<10)} }

// next returns the next event that has data; comments and empty events are passed over. At the end
// it returns io.EOF, also for an event that was cut before its blank line.
func (e *eventReader) next() (event, error) {
	e.name, e.data = e.name[:0], e.data[:0]
	hasData := false
	for {
		line, err := e.readLine()
		if err != nil {
			return event{}, err
		}
		if len(line) == 0 {
			if hasData {
				return event{name: e.name, data: e.data}, nil
			}
			e.name = e.name[:0]
			continue
		}
		field, value := splitField(line)
		switch string(field) {
		case "data":
			if hasData {
				e.data = append(e.data, '\n')
			}
			e.data = append(e.data, value...)
			hasData = true
		case "event":
			e.name = append(e.name[:0], value...)
		}
		if len(e.data) > maxEvent {
			return event{}, errEventTooLong
		}
	}
}

// splitField cuts "name: value"; a comment has an empty name.
func splitField(line []byte) (field, value []byte) {
	field, value, _ = bytes.Cut(line, []byte{':'})
	return field, bytes.TrimPrefix(value, []byte{' '})
}

// readLine returns a line without its end, from the reader's buffer where it fits there.
func (e *eventReader) readLine() ([]byte, error) {
	line, err := e.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		e.line = e.line[:0]
		for errors.Is(err, bufio.ErrBufferFull) {
			if e.line = append(e.line, line...); len(e.line) > maxEvent {
				return nil, errEventTooLong
			}
			line, err = e.r.ReadSlice('\n')
		}
		e.line = append(e.line, line...)
		line = e.line
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'}), nil
}
