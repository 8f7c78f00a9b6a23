/*
 * HTTP/1.1 framing of one direction of a connection, a segment at a time. A step needs a view of
 * up to VIEW contiguous bytes; where a segment ends too early, its last bytes are carried over and
 * stand before the next one. Bodies are skipped by arithmetic.
 */
#ifndef PROBE_HTTP_H
#define PROBE_HTTP_H

#include "emit.h"
#include "sse.h"
#include "state.h"

#define LOWER 0x2020202020202020ULL
#define CHUNKED T8('c', 'h', 'u', 'n', 'k', 'e', 'd', 0)
#define TLS 0x0316ULL /* handshake, version 3.x */

/* Bytes were missed, or make no sense here: nothing is known until a message begins a segment. */
static __noinline void lose(struct cursor *cur)
{
	struct conn *c = cur->c;

	COUNT(c->slot, lost);
	emit_close(c, cur->s->now, BY_LOSS + cur->direction);
	c->answers = c->requests;
	c->epoch++;
	cur->f->epoch = c->epoch;
	cur->f->state = LOST;
	cur->f->carried = 0;
	cur->f->flags = 0;
}

/* Both directions are none of our business any more. */
static __always_inline void give_up(struct cursor *cur)
{
	cur->c->opaque = 1;
	cur->f->state = OPAQUE;
	cur->f->flags = 0;
}

/* Loads the window from the segment's byte pos on. */
static __always_inline int fill(struct cursor *cur)
{
	struct scratch *s = cur->s;
	__u32 carried = s->carried, pos = s->pos, n, to = 0, from;

	if (pos < carried) {
		__builtin_memcpy(s->win, cur->f->carry, VIEW);
		to = carried & (VIEW - 1);
		from = 0;
		pos = 0;
	} else {
		from = pos - carried;
	}
	n = s->have - carried - from;
	if (n > WIN)
		n = WIN;
	s->win_at = pos;
	s->win_n = to + n;
	if (n == 0)
		return 0;
	if (cur->held) {
		s->index = s->off + from;
		from = s->index;
		if (from >= HELD_BYTES)
			return -1;
		s->index = to;
		__builtin_memcpy(&s->win[s->index & (VIEW - 1)], &cur->held->data[from & (HELD_BYTES - 1)], WIN);
		return 0;
	}
	s->index = to;
	to = s->index & (VIEW - 1);
	n = ((n - 1) & (WIN - 1)) + 1;
	return bpf_skb_load_bytes(cur->skb, s->off + from, &s->win[to], n);
}

/* Makes a view of what begins at pos: all there is, or at least VIEW bytes. */
static __always_inline int view(struct cursor *cur)
{
	struct scratch *s = cur->s;
	__u32 at = s->pos - s->win_at;

	if (s->pos >= s->have)
		return -1;
	if (s->pos < s->win_at || at >= s->win_n || (s->win_n - at < VIEW && s->win_at + s->win_n < s->have)) {
		if (fill(cur))
			return -1;
		at = s->pos - s->win_at;
	}
	s->at = at & MASK;
	s->n = s->win_n - at;
	return 0;
}

/* Keeps the rest of the segment for the next one. */
static __always_inline long wait(struct cursor *cur)
{
	struct scratch *s = cur->s;
	__u32 at = s->at & MASK;

	if (s->n >= VIEW || s->have != s->end) {
		lose(cur);
		return 1;
	}
	__builtin_memcpy(cur->f->carry, &s->win[at], VIEW);
	cur->f->carried = s->n;
	s->pos = s->end;
	return 1;
}

/* Takes a line of n bytes; 0: one that does not fit into the view, and goes on in HEADER_REST. */
static __always_inline void take(struct cursor *cur, __u32 n)
{
	cur->s->pos += n ? n : VIEW;
	cur->f->state = n ? HEADER : HEADER_REST;
}

static __always_inline void begin(struct cursor *cur)
{
	struct flow *f = cur->f;

	if (f->flags & F_BEGUN)
		return;
	f->flags = F_BEGUN;
	f->begin = cur->s->now;
	f->bytes = 0;
	f->left = 0;
	f->status = 0;
}

static __always_inline void message_end(struct cursor *cur)
{
	struct conn *c = cur->c;
	struct flow *f = cur->f;

	f->state = START;
	f->end = cur->s->now;
	if (cur->direction == TO_SERVER) {
		if (f->flags & F_TOLD)
			emit_request_end(cur);
		else
			emit_request(cur, f->end);
	} else {
		emit_response(cur, 1);
		cur->s->chunked = 0;
		if (!(f->flags & F_ORPHAN))
			c->answers++;
	}
	f->flags = 0;
}

/* What follows the headers, and the trailers. */
static __always_inline void body(struct cursor *cur)
{
	struct flow *f = cur->f;

	if (f->flags & F_TRAILER) {
		message_end(cur);
	} else if (f->flags & F_NO_BODY) {
		message_end(cur);
	} else if (f->flags & F_CHUNKED) {
		f->flags |= F_CHUNKS;
		f->state = CHUNK;
	} else if (f->left) {
		f->bytes = f->left;
		f->state = SKIP;
	} else if (cur->direction == TO_CLIENT && !(f->flags & F_LENGTH)) {
		f->state = TO_CLOSE;
	} else {
		message_end(cur);
	}
}

/* Whether an eight-byte word is the beginning of a request. */
static __always_inline int method(__u64 w)
{
	__u32 h = w;

	if (h == T4('P', 'O', 'S', 'T') || h == T4('H', 'E', 'A', 'D'))
		return (__u8)(w >> 32) == ' ';
	if (h == T4('G', 'E', 'T', ' ') || h == T4('P', 'U', 'T', ' '))
		return 1;
	if (w == T8('O', 'P', 'T', 'I', 'O', 'N', 'S', ' ') || w == T8('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
		return 1;
	if (FIRST(7, w) == T8('D', 'E', 'L', 'E', 'T', 'E', ' ', 0))
		return 1;
	w = FIRST(6, w);
	return w == T8('P', 'A', 'T', 'C', 'H', ' ', 0, 0) || w == T8('T', 'R', 'A', 'C', 'E', ' ', 0, 0);
}

/* A first message that is no HTTP/1 request: says what it is, once per connection. */
static __always_inline long foreign(struct cursor *cur, __u64 w)
{
	struct conn *c = cur->c;

	if (c->requests) {
		lose(cur);
		return 1;
	}
	if (w == T8('P', 'R', 'I', ' ', '*', ' ', 'H', 'T'))
		COUNT(c->slot, http2);
	else if (FIRST(2, w) == TLS)
		COUNT(c->slot, tls);
	else
		COUNT(c->slot, other);
	give_up(cur);
	return 1;
}

/* The line of n bytes in the view ends in "HTTP/1.x". */
static __always_inline int versioned(struct scratch *s, __u32 n)
{
	const __u8 *p = bytes(s, s->at + n - 10);

	if (n < 14)
		return 0;
	return FIRST(7, word(p)) == T8('H', 'T', 'T', 'P', '/', '1', '.', 0) ||
	       FIRST(7, word(p + 1)) == T8('H', 'T', 'T', 'P', '/', '1', '.', 0);
}

/* The line in the view: its length, 0 where it is longer than a view, -1 where more must come. */
static __always_inline int line(struct scratch *s, const __u8 *p)
{
	__u32 n = newline(s, p, VIEW / 8);

	if (n && n <= s->n)
		return n;
	return s->n < VIEW ? -1 : 0;
}

static __always_inline long request_line(struct cursor *cur)
{
	struct scratch *s = cur->s;
	struct conn *c = cur->c;
	const __u8 *p = bytes(s, s->at);
	__u64 w = word(p);
	int n;

	if (p[0] == '\r' || p[0] == '\n') { /* allowed before a request */
		s->pos++;
		return 0;
	}
	begin(cur);
	if (s->n < 8 && !(s->n >= 2 && FIRST(2, w) == TLS))
		return wait(cur);
	if (!method(w))
		return foreign(cur, w);
	n = line(s, p);
	if (n < 0)
		return wait(cur);
	if (n && !versioned(s, n))
		return foreign(cur, 0);
	__builtin_memcpy(c->line, p, LINE);
	c->line_n = n ? n : LINE;
	if (half(p) == T4('H', 'E', 'A', 'D'))
		cur->f->flags |= F_NO_BODY; /* that is, its answer */
	if (w == T8('C', 'O', 'N', 'N', 'E', 'C', 'T', ' '))
		cur->f->flags |= F_CONNECT;
	take(cur, n);
	return 0;
}

static __always_inline int answer_begins(const __u8 *p)
{
	return FIRST(7, word(p)) == T8('H', 'T', 'T', 'P', '/', '1', '.', 0);
}

static __always_inline long status_line(struct cursor *cur)
{
	struct scratch *s = cur->s;
	struct conn *c = cur->c;
	struct flow *f = cur->f;
	const __u8 *p = bytes(s, s->at);
	__u32 digits = half(p + 9);
	int n;

	begin(cur);
	if (s->n < 14)
		return wait(cur);
	if (!answer_begins(p) || (digits & 0xf0f0f0) != 0x303030) {
		if (c->requests) {
			lose(cur);
		} else {
			COUNT(c->slot, other);
			give_up(cur);
		}
		return 1;
	}
	n = line(s, p);
	if (n < 0)
		return wait(cur);
	f->status = (digits & 15) * 100 + (digits >> 8 & 15) * 10 + (digits >> 16 & 15);
	c->first_chunk = 0;
	c->chunks = 0;
	c->parts = 0;
	c->gap_n = 0;
	f->no = c->answers + 1;
	if ((__s32)(c->requests - c->answers) <= 0) {
		COUNT(c->slot, orphans);
		f->flags |= F_ORPHAN;
	} else {
		if (c->heads >> (f->no & 63) & 1)
			f->flags |= F_NO_BODY;
		if (c->connects >> (f->no & 63) & 1)
			f->flags |= F_CONNECT;
	}
	take(cur, n);
	return 0;
}

/* The value of Content-Length at p. */
static __always_inline void content_length(struct cursor *cur, const __u8 *p)
{
	__u64 v = 0;
	int k;

	cur->s->value = 0;
#pragma unroll
	for (k = 0; k < 20; k++) {
		__u8 d = p[k] - '0';

		if (p[k] == ' ' && !v)
			continue;
		if (d > 9)
			break;
		v = v * 10 + d;
		cur->s->value = v;
	}
	cur->f->left = cur->s->value;
	cur->f->flags |= F_LENGTH;
}

/* One header line of n bytes at p, which is at window index s->at. Few names matter. */
static __always_inline void header(struct cursor *cur, const __u8 *p, __u32 n)
{
	struct scratch *s = cur->s;
	struct flow *f = cur->f;
	__u64 w = word(p) | LOWER, x = word(p + 8) | LOWER;

	if (w == T8('c', 'o', 'n', 't', 'e', 'n', 't', '-')) {
		if (FIRST(7, x) == T8('l', 'e', 'n', 'g', 't', 'h', ':', 0)) {
			content_length(cur, p + 15);
		} else if (FIRST(5, x) == T8('t', 'y', 'p', 'e', ':', 0, 0, 0)) {
			p = bytes(s, after_space(s, s->at + 13));
			if ((word(p) | LOWER) == (T8('t', 'e', 'x', 't', '/', 'e', 'v', 'e') | LOWER) &&
			    (word(p + 8) | LOWER) == (T8('n', 't', '-', 's', 't', 'r', 'e', 'a') | LOWER))
				f->flags |= F_SSE;
		}
	} else if (w == T8('t', 'r', 'a', 'n', 's', 'f', 'e', 'r') && x == T8('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n')) {
		p = bytes(s, s->at + n - 9); /* the last coding decides: …chunked, CR, LF */
		if (n >= 26 && (FIRST(7, word(p) | LOWER) == CHUNKED || FIRST(7, word(p + 1) | LOWER) == CHUNKED))
			f->flags |= F_CHUNKED;
	} else if (cur->direction == TO_SERVER && w == T8('x', '-', 'p', 'e', 'r', 'f', '-', 's') &&
		   x == T8('y', 'n', 't', 'h', 'e', 't', 'i', 'c')) {
		f->flags |= F_SYNTHETIC;
	}
}

static __always_inline long request_headers_end(struct cursor *cur)
{
	struct conn *c = cur->c;
	struct flow *f = cur->f;
	__u64 bit;

	f->no = c->requests + 1;
	bit = 1ULL << (f->no & 63);
	c->heads = f->flags & F_NO_BODY ? c->heads | bit : c->heads & ~bit;
	c->connects = f->flags & F_CONNECT ? c->connects | bit : c->connects & ~bit;
	c->requests = f->no;
	f->flags &= ~F_NO_BODY;
	f->flags |= F_OWED;
	if (f->flags & F_CHUNKED)
		f->left = 0;
	body(cur);
	return 0;
}

static __always_inline long response_headers_end(struct cursor *cur)
{
	struct conn *c = cur->c;
	struct flow *f = cur->f;
	__u16 status = f->status;

	if (status == 101 || (f->flags & F_CONNECT && status >= 200 && status < 300)) {
		f->flags |= F_NO_BODY;
		message_end(cur);
		COUNT(c->slot, upgraded);
		emit_close(c, cur->s->now, BY_UPGRADE);
		c->answers = c->requests;
		give_up(cur);
		return 1;
	}
	if (status < 200) { /* 100-continue, early hints: the answer is yet to come */
		f->flags = 0;
		f->state = START;
		return 0;
	}
	if (status == 204 || status == 304)
		f->flags |= F_NO_BODY;
	if (f->flags & F_CHUNKED)
		f->left = 0;
	f->flags |= F_OWED;
	body(cur);
	return 0;
}

static __always_inline long header_line(struct cursor *cur)
{
	struct scratch *s = cur->s;
	struct flow *f = cur->f;
	const __u8 *p = bytes(s, s->at);
	int n;

	if (p[0] == '\n' || (p[0] == '\r' && p[1] == '\n' && s->n >= 2)) {
		s->pos += p[0] == '\n' ? 1 : 2;
		if (f->flags & F_TRAILER) {
			message_end(cur);
			return 0;
		}
		return cur->direction == TO_SERVER ? request_headers_end(cur) : response_headers_end(cur);
	}
	n = line(s, p);
	if (n < 0)
		return wait(cur);
	if (!(f->flags & F_TRAILER))
		header(cur, p, n ? n : VIEW);
	take(cur, n);
	return 0;
}

static __always_inline long header_rest(struct cursor *cur)
{
	struct scratch *s = cur->s;
	int n = line(s, bytes(s, s->at));

	if (n > 0)
		cur->f->state = HEADER;
	s->pos += n > 0 ? n : s->n < VIEW ? s->n : VIEW;
	return 0;
}

/* A chunk's size in hexadecimal at p: s->value, and its digits in s->index. */
static __always_inline void chunk_size(struct scratch *s, const __u8 *p)
{
	__u64 v = 0;
	__u32 k;

	s->index = 0;
#pragma unroll
	for (k = 0; k < 15; k++) {
		__u8 d = p[k] - '0';

		if (d > 9) {
			d = (p[k] | 0x20) - 'a';
			if (d > 5)
				break;
			d += 10;
		}
		v = v << 4 | d;
		s->index = k + 1;
	}
	s->value = v;
}

/* A chunk: its size, what it is, and past it in one step. */
static __always_inline long chunk(struct cursor *cur)
{
	struct scratch *s = cur->s;
	struct flow *f = cur->f;
	const __u8 *p = bytes(s, s->at);
	__u32 n = s->n, k, need;
	__u64 size;
	int end;

	chunk_size(s, p);
	k = s->index;
	size = s->value;
	if (k >= n)
		return wait(cur);
	if (!k) {
		lose(cur);
		return 1;
	}
	if (k + 2 <= n && FIRST(2, half(bytes(s, s->at + k))) == T8('\r', '\n', 0, 0, 0, 0, 0, 0)) {
		k += 2;
	} else { /* an extension, or a bare newline */
		end = line(s, p);
		if (end <= 0)
			return wait(cur);
		k = end;
	}
	if (!size) {
		s->pos += k;
		f->flags |= F_TRAILER;
		f->state = HEADER;
		return 0;
	}
	need = f->flags & F_SSE ? 16 : 1; /* to know what it is */
	if (size < need)
		need = size;
	if (n < k + need && s->pos + n >= s->end)
		return wait(cur);
	n -= k;
	if (n > size)
		n = size;
	if (cur->direction == TO_CLIENT)
		note_chunk(cur, s->at + k, n);
	s->pos += k;
	f->bytes += size;
	f->left = size + 2; /* its CR LF too */
	f->state = SKIP;
	return 0;
}

static __always_inline long skip(struct cursor *cur)
{
	struct scratch *s = cur->s;
	struct flow *f = cur->f;
	__u64 n = s->end - s->pos;

	if (n > f->left)
		n = f->left;
	s->pos += n;
	f->left -= n;
	if (f->left)
		return 1;
	if (f->flags & F_CHUNKS)
		f->state = CHUNK;
	else
		message_end(cur);
	return 0;
}

/* The first bytes of this segment's part of a body that is not in chunks. */
static __always_inline void note_part(struct cursor *cur)
{
	struct scratch *s = cur->s;

	if (!(cur->f->flags & F_SSE) || view(cur))
		note_chunk(cur, 0, 0);
	else
		note_chunk(cur, s->at, s->n);
}

/* One step of the parser; 1: the segment is done. */
static long step(__u32 i, struct cursor *cur)
{
	struct scratch *s = cur->s;
	struct flow *f = cur->f;
	__u8 state = f->state;

	if (s->pos >= s->end)
		return 1;
	if (cur->direction == TO_CLIENT && cur->c->gap_n >= GAPS)
		emit_response(cur, 0);
	if (state == SKIP || state == TO_CLOSE) {
		if (cur->direction == TO_CLIENT && !(f->flags & F_CHUNKS) && !s->chunked)
			note_part(cur);
		if (state == SKIP)
			return skip(cur);
		f->bytes += s->end - s->pos;
		s->pos = s->end;
		return 1;
	}
	if (view(cur)) {
		lose(cur);
		return 1;
	}
	switch (state) {
	case START:
		return cur->direction == TO_SERVER ? request_line(cur) : status_line(cur);
	case HEADER:
		return header_line(cur);
	case HEADER_REST:
		return header_rest(cur);
	case CHUNK:
		return chunk(cur);
	}
	return 1; /* lost or opaque */
}

/* Whether a message begins at pos. */
static __always_inline int message_begins(struct cursor *cur)
{
	struct scratch *s = cur->s;
	const __u8 *p;

	if (view(cur) || s->n < 8)
		return 0;
	p = bytes(s, s->at);
	return cur->direction == TO_SERVER ? method(word(p)) : answer_begins(p);
}

#endif
