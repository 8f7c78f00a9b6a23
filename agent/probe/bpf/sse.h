/*
 * What a chunk of a text/event-stream is, by how it begins. Engines write one event per chunk.
 */
#ifndef PROBE_SSE_H
#define PROBE_SSE_H

#include "state.h"

enum kind { TOKENS, SILENT, FINAL, FAILURE };

/*
 * The bytes at window index i. What is read from there at fixed offsets costs the verifier, and its
 * masks, nothing more; the barrier keeps the compiler from adding anew for each.
 */
static __always_inline const __u8 *bytes(struct scratch *s, __u32 i)
{
	const __u8 *p = &s->win[i & MASK];

	asm volatile("" : "+r"(p));
	return p;
}

static __always_inline __u64 word(const __u8 *p) { return *(const __u64 *)p; }
static __always_inline __u32 half(const __u8 *p) { return *(const __u32 *)p; }

/* Little-endian words of text. */
#define T4(a, b, c, d) ((__u32)(a) | (__u32)(b) << 8 | (__u32)(c) << 16 | (__u32)(d) << 24)
#define T8(a, b, c, d, e, f, g, h) ((__u64)T4(a, b, c, d) | (__u64)T4(e, f, g, h) << 32)
#define FIRST(n, w) ((w) & ((1ULL << 8 * (n)) - 1))

/*
 * The number of bytes up to the first newline among the first `words` words, itself included; 0:
 * there is none. What the loop finds goes through memory, so that the verifier sees one outcome and
 * not one per word.
 */
static __always_inline __u32 newline(struct scratch *s, const __u8 *p, __u32 words)
{
	__u32 k;

	s->found = 0;
#pragma unroll
	for (k = 0; k < words; k++) {
		__u64 x = word(p + 8 * k) ^ 0x0a0a0a0a0a0a0a0aULL;
		__u64 t = (x - 0x0101010101010101ULL) & ~x & 0x8080808080808080ULL;

		if (t) {
			/* The lowest mark is exact; each whole byte below it adds one. */
			s->found = 8 * k + (((t & -t) - 1 & 0x0101010101010101ULL) * 0x0101010101010101ULL >> 56);
			break;
		}
	}
	return s->found;
}

/* The window index i, past a space if there is one. */
static __always_inline __u32 after_space(struct scratch *s, __u32 i)
{
	s->index = i;
	if (*bytes(s, i) == ' ')
		s->index = i + 1;
	return s->index;
}

/*
 * An event with a name: /v1/messages and /v1/responses. Names of events with text end in "delta".
 * n bytes can be read from i, where the name begins.
 */
static __always_inline enum kind named(struct scratch *s, __u32 i, __u32 n)
{
	const __u8 *p = bytes(s, i);
	__u32 k;

	if (half(p) == T4('e', 'r', 'r', 'o') && p[4] == 'r')
		return FAILURE;
	if (word(p) == T8('r', 'e', 's', 'p', 'o', 'n', 's', 'e') && FIRST(7, word(p + 8)) == T8('.', 'f', 'a', 'i', 'l', 'e', 'd', 0))
		return FAILURE;
	k = newline(s, p, 6);
	if (k < 6 || k > n)
		return SILENT;
	p = bytes(s, i + k - 6); /* "delta", newline; or the same with CR, a byte earlier */
	return FIRST(6, word(p)) == T8('d', 'e', 'l', 't', 'a', '\n', 0, 0) ||
	       FIRST(5, word(p)) == T8('e', 'l', 't', 'a', '\r', 0, 0, 0) ? TOKENS : SILENT;
}

/* n bytes can be read from window index i. */
static __always_inline enum kind classify(struct scratch *s, __u32 i, __u32 n)
{
	const __u8 *p = bytes(s, i);

	if (n < 7)
		return SILENT;
	if (FIRST(6, word(p)) == T8('e', 'v', 'e', 'n', 't', ':', 0, 0))
		return named(s, after_space(s, i + 6), n - 7);
	if (FIRST(5, word(p)) != T8('d', 'a', 't', 'a', ':', 0, 0, 0))
		return SILENT; /* a comment, an id, the rest of an event */
	i = after_space(s, i + 5);
	p = bytes(s, i);
	if (half(p) == T4('[', 'D', 'O', 'N'))
		return FINAL;
	if (p[0] != '{' || (p[1] != '"' && p[1] != ' '))
		return TOKENS;
	i = after_space(s, i + 1);
	if (word(bytes(s, i)) != T8('"', 'e', 'r', 'r', 'o', 'r', '"', ':'))
		return TOKENS;
	i = after_space(s, i + 8);
	return *bytes(s, i) == 'n' ? TOKENS : FAILURE; /* null is none */
}

/* A part of the answer's body has come that begins with the n bytes at window index i. */
static __always_inline void note_chunk(struct cursor *cur, __u32 i, __u32 n)
{
	struct conn *c = cur->c;
	struct flow *f = cur->f;
	struct scratch *s = cur->s;
	enum kind kind = TOKENS;

	s->chunked = 1;
	c->parts++;
	if (f->flags & F_SSE)
		kind = classify(s, i, n);
	if (kind == FAILURE)
		f->flags |= F_ERROR | F_OWED;
	if (kind == FINAL)
		f->flags |= F_DONE | F_OWED; /* many clients leave now */
	if (kind != TOKENS)
		return;
	c->chunks++;
	if (!c->first_chunk) {
		c->first_chunk = s->now;
		f->flags |= F_OWED;
	} else {
		__u32 g = c->gap_n;

		if (g == 0)
			c->batch = s->now;
		s->index = g;
		g = s->index;
		if (g < GAPS) {
			c->gaps[g & 31] = (s->now - c->last_chunk) >> 10;
			c->gap_n = g + 1;
		}
	}
	c->last_chunk = s->now;
}

#endif
