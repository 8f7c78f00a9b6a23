/*
 * Events for user space. They wake it only when many wait, and then once a millisecond, since a
 * wake-up costs more than all the rest; it looks by itself several times a second. An event that
 * finds no room is counted and gone; user space notices by the numbers.
 */
#ifndef PROBE_EMIT_H
#define PROBE_EMIT_H

#include "state.h"

static __always_inline __u64 wake(__u64 now)
{
	if (now - woken < WAKE_NS || bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) <= wake_bytes)
		return BPF_RB_NO_WAKEUP;
	woken = now;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline void head(struct event *e, __u8 type, struct conn *c, __u32 no, __u64 at)
{
	e->type = type;
	e->how = 0;
	e->slot = c->slot;
	e->no = no;
	e->conn = c->id;
	e->at = at;
}

static __noinline void emit_request(struct cursor *cur, __u64 end)
{
	struct conn *c = cur->c;
	struct flow *f = cur->f;
	struct request *r = bpf_ringbuf_reserve(&events, sizeof(*r), 0);

	f->flags = (f->flags & ~F_OWED) | F_TOLD;
	if (!r) {
		COUNT(c->slot, dropped);
		return;
	}
	head(&r->e, E_REQUEST, c, f->no, f->begin);
	r->end = end;
	r->bytes = f->bytes;
	r->key = cur->s->g.key;
	r->flags = f->flags;
	r->line_n = c->line_n;
	__builtin_memcpy(r->line, c->line, LINE);
	bpf_ringbuf_submit(r, wake(cur->s->now));
}

static __noinline void emit_request_end(struct cursor *cur)
{
	struct request_end *r = bpf_ringbuf_reserve(&events, sizeof(*r), 0);

	if (!r) {
		COUNT(cur->c->slot, dropped);
		return;
	}
	head(&r->e, E_REQUEST_END, cur->c, cur->f->no, cur->s->now);
	r->bytes = cur->f->bytes;
	bpf_ringbuf_submit(r, wake(cur->s->now));
}

static __noinline void emit_response(struct cursor *cur, __u8 over)
{
	struct conn *c = cur->c;
	struct flow *f = cur->f;
	__u32 gaps = c->gap_n;
	struct response *r;

	f->flags = (f->flags & ~F_OWED) | F_TOLD;
	if (c->chunks)
		f->flags |= F_FIRST;
	c->gap_n = 0;
	if (f->flags & F_ORPHAN)
		return;
	r = bpf_ringbuf_reserve(&events, sizeof(*r), 0);
	if (!r) {
		COUNT(c->slot, dropped);
		return;
	}
	head(&r->e, E_RESPONSE, c, f->no, f->begin);
	r->first_chunk = c->first_chunk;
	r->last = f->end;
	r->bytes = f->bytes;
	r->chunks = c->chunks;
	r->status = f->status;
	r->over = over;
	r->gap_n = gaps;
	r->flags = f->flags;
	r->parts = c->parts;
	if (gaps > 0)
		__builtin_memcpy(r->gaps, c->gaps, sizeof(r->gaps));
	else
		__builtin_memset(r->gaps, 0, sizeof(r->gaps));
	bpf_ringbuf_submit(r, wake(cur->s->now));
}

/* Tells that a connection ended, or was lost, with requests open. */
static __noinline void emit_close(struct conn *c, __u64 now, __u8 how)
{
	struct event *e;

	if (c->requests == c->answers)
		return;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		COUNT(c->slot, dropped);
		return;
	}
	head(e, E_CLOSE, c, c->requests, now);
	e->how = how;
	bpf_ringbuf_submit(e, wake(now));
}

#endif
