package fsm

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
)

// record is a pointer to a protobuf message.
type record interface {
	comparable
	proto.Message
}

// table holds records of one kind by key. Committed rows are never changed, only replaced, so a
// snapshot needs no more than a copy of the map. Changes wait in dirty until the command that makes
// them has passed all its guards.
type table[T record] struct {
	rows  map[string]T
	dirty map[string]T // a zero T removes the row
}

func newTable[T record]() *table[T] {
	return &table[T]{rows: map[string]T{}, dirty: map[string]T{}}
}

// get returns a row that must not be changed.
func (t *table[T]) get(key string) (T, bool) {
	var none T
	if v, ok := t.dirty[key]; ok {
		return v, v != none
	}
	v, ok := t.rows[key]
	return v, ok
}

// edit returns a row that may be changed within this command; the zero T when there is none.
func (t *table[T]) edit(key string) T {
	if v, ok := t.dirty[key]; ok {
		return v
	}
	v, ok := t.rows[key]
	if !ok {
		return v
	}
	v = proto.CloneOf(v)
	t.dirty[key] = v
	return v
}

func (t *table[T]) put(key string, v T) { t.dirty[key] = v }

func (t *table[T]) remove(key string) {
	var none T
	t.dirty[key] = none
}

// keys in ascending order.
func (t *table[T]) keys() []string {
	var none T
	keys := make([]string, 0, len(t.rows)+len(t.dirty))
	for k := range t.rows {
		if _, changed := t.dirty[k]; !changed {
			keys = append(keys, k)
		}
	}
	for k, v := range t.dirty {
		if v != none {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// filter returns the rows, in order of their keys, that keep accepts.
func (t *table[T]) filter(keep func(T) bool) []T {
	var out []T
	for _, k := range t.keys() {
		if v, _ := t.get(k); keep(v) {
			out = append(out, v)
		}
	}
	return out
}

func (t *table[T]) commit() {
	var none T
	for k, v := range t.dirty {
		if v == none {
			delete(t.rows, k)
		} else {
			t.rows[k] = v
		}
	}
	clear(t.dirty)
}

func (t *table[T]) rollback() { clear(t.dirty) }

// capture returns a copy of the committed rows; the rows themselves are shared.
func (t *table[T]) capture() *table[T] {
	return &table[T]{rows: maps.Clone(t.rows), dirty: map[string]T{}}
}
