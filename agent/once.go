package main

import "sync"

// once remembers what was said about a subject, so that a lasting trouble is said once and a new
// one at once. The zero value is ready.
type once struct {
	mu   sync.Mutex
	said map[string]string
}

// first reports whether these words about the subject are news.
func (o *once) first(subject, words string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.said == nil {
		o.said = map[string]string{}
	}
	if was, ok := o.said[subject]; ok && was == words {
		return false
	}
	o.said[subject] = words
	return true
}

// forget makes the next words about the subject news: the trouble is over.
func (o *once) forget(subject string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.said, subject)
}
