/*
 * TCP: finds the segment in a packet, its connection and direction, and gives the parser each byte
 * once and in order. A segment that comes early is held until the gap before it is filled, unless
 * the gap lies in what would be skipped anyway. What was seen already is passed over.
 */
#ifndef PROBE_TCP_H
#define PROBE_TCP_H

#include "http.h"
#include "state.h"

#define FIN 1
#define SYN 2
#define RST 4
#define ACK 16

struct tcp {
	__be16 source, dest;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window, check, urgent;
};

/* What the headers of a packet say. */
struct packet {
	__u8 ip[40];
	struct tcp tcp;
	__u32 at;  /* of the TCP header */
	__u32 end; /* of the payload */
	__u32 slot;
	__u32 direction;
	__u32 fragment;
};

/* Reads a packet that begins with its IP header. 0: a TCP segment of an observed port. */
static __always_inline int dissect(struct __sk_buff *skb, struct packet *p)
{
	const __u8 *h = p->ip;
	struct tcp *t = &p->tcp;
	__u16 source, dest;
	__u8 from, to;

	if (bpf_skb_load_bytes(skb, 0, p->ip, sizeof(p->ip)))
		return -1;
	if (h[0] >> 4 == 4) {
		if (h[9] != 6)
			return -1;
		p->at = (h[0] & 15) * 4;
		p->end = h[2] << 8 | h[3];
	} else if (h[0] >> 4 == 6) {
		if (h[6] != 6)
			return -1;
		p->at = 40;
		p->end = h[4] << 8 | h[5];
		if (p->end)
			p->end += 40;
	} else {
		return -1;
	}
	if (p->at == 20)
		__builtin_memcpy(t, &h[20], sizeof(*t));
	else if (p->at < 20 || bpf_skb_load_bytes(skb, p->at, t, sizeof(*t)))
		return -1;
	source = bpf_ntohs(t->source);
	dest = bpf_ntohs(t->dest);
	from = port_slot[source];
	to = port_slot[dest];
	if (!from && !to)
		return -1;
	if (from && to && dest > source) /* both observed: servers have the lower port */
		to = 0;
	p->slot = to ? to : from;
	p->direction = to ? TO_SERVER : TO_CLIENT;
	p->fragment = h[0] >> 4 == 4 && (h[6] & 0x3f || h[7]);
	if (!p->end || p->end > skb->len) /* very large packets say 0 */
		p->end = skb->len;
	p->at += (t->offset >> 4) * 4;
	if ((t->offset >> 4) < 5 || p->at > p->end)
		return -1;
	return p->at == p->end && !(t->flags & (SYN | FIN | RST)) ? -1 : 0; /* a bare ACK says nothing */
}

static __always_inline void address(__u8 *to, const __u8 *from, __u32 version)
{
	__u32 *w = (__u32 *)to;

	if (version == 6) {
		__builtin_memcpy(to, from, 16);
		return;
	}
	w[0] = 0;
	w[1] = 0;
	w[2] = bpf_htonl(0xffff);
	__builtin_memcpy(&w[3], from, 4);
}

static __always_inline void segment(struct packet *p, struct segment *g, __u64 cgroup)
{
	struct tcp *t = &p->tcp;
	__u8 *source = g->key.server, *dest = g->key.client;
	const __u8 *h = p->ip;

	if (p->direction == TO_SERVER) {
		source = g->key.client;
		dest = g->key.server;
		g->key.client_port = bpf_ntohs(t->source);
		g->key.server_port = bpf_ntohs(t->dest);
	} else {
		g->key.client_port = bpf_ntohs(t->dest);
		g->key.server_port = bpf_ntohs(t->source);
	}
	if (h[0] >> 4 == 4) {
		address(source, &h[12], 4);
		address(dest, &h[16], 4);
	} else {
		address(source, &h[8], 6);
		address(dest, &h[24], 6);
	}
	g->key.zero = 0;
	g->key.cgroup = cgroup;
	g->slot = p->slot;
	g->direction = p->direction;
	g->seq = bpf_ntohl(t->seq);
	g->off = p->at;
	g->len = p->end - p->at;
	g->flags = t->flags;
}

/* Takes over what is known of a connection from nothing; midway: its beginning was not seen. */
static __noinline struct conn *open_conn(struct segment *g, struct scratch *s, __u32 midway)
{
	struct conn *c = &s->fresh;

	c->id = __sync_fetch_and_add(&next_id, 1);
	c->slot = g->slot;
	c->to_server.known = !midway;
	c->to_server.next = g->seq + 1;
	c->to_server.state = midway ? LOST : START;
	c->to_client.state = midway ? LOST : START;
	c->epoch = midway;
	c->to_server.epoch = midway;
	c->to_client.epoch = midway;
	if (bpf_map_update_elem(&conns, &g->key, c, BPF_ANY))
		return 0;
	COUNT(g->slot, connections);
	if (midway)
		COUNT(g->slot, midway);
	return bpf_map_lookup_elem(&conns, &g->key);
}

static __always_inline void count_live(struct segment *g)
{
	if (__sync_fetch_and_add(&live, 1) >= bound)
		COUNT(g->slot, over_bound);
}

/* The connection of a segment; made for a client's SYN, or its first bytes. */
static __always_inline struct conn *find(struct segment *g, struct scratch *s)
{
	struct conn *c = bpf_map_lookup_elem(&conns, &g->key);

	if (c && (g->flags & (SYN | ACK)) == SYN && g->direction == TO_SERVER && g->seq + 1 != c->to_server.next &&
	    !(c->requests == 0 && c->to_server.next - g->seq < 2)) {
		emit_close(c, s->now, BY_REUSE + TO_SERVER);
		return open_conn(g, s, 0);
	}
	if (c)
		return c;
	if (g->direction != TO_SERVER || g->flags & RST || !(g->len || g->flags & SYN))
		return 0;
	count_live(g);
	return open_conn(g, s, !(g->flags & SYN));
}

static __always_inline void drop_conn(struct key *key)
{
	if (!bpf_map_delete_elem(&conns, key))
		__sync_fetch_and_add(&live, -1);
}

struct spin {
	__u64 *lock;
};

static long try_lock(__u32 i, struct spin *spin)
{
	return __sync_val_compare_and_swap(spin->lock, 0, 1) == 0;
}

/*
 * One CPU at a time parses a direction; the others wait a moment. Nobody who holds this can be
 * waited for by whom it interrupted: one socket sends in one place at a time.
 */
static __always_inline int lock(__u64 *lock)
{
	struct spin spin = { .lock = lock };
	long n;

	if (__sync_val_compare_and_swap(lock, 0, 1) == 0)
		return 0;
	n = bpf_loop(SPINS, try_lock, &spin, 0);
	return n == SPINS ? -1 : 0;
}

static __always_inline void unlock(__u64 *lock) { __sync_lock_test_and_set(lock, 0); }

/* Runs the parser over what s describes. */
static __always_inline void parse(struct cursor *cur)
{
	struct scratch *s = cur->s;
	struct flow *f = cur->f;

	s->carried = f->carried;
	s->pos = 0;
	s->end += s->carried;
	s->have += s->carried;
	s->win_at = 0;
	s->win_n = 0;
	f->carried = 0;
	f->end = s->now;
	if (bpf_loop(STEPS, step, cur, 0) >= STEPS)
		lose(cur);
}

/* Whether n bytes that were missed need not have been seen. */
static __always_inline int immaterial(struct flow *f, __u32 n)
{
	return (f->state == SKIP && f->left >= n) || f->state == TO_CLOSE;
}

/* Keeps an early segment. */
static __noinline void hold(struct cursor *cur, struct segment *g)
{
	struct scratch *s = cur->s;
	struct flow *f = cur->f;
	struct held_key key = { .conn = cur->c->id, .direction = cur->direction };
	__u64 n = g->len < HELD_BYTES ? g->len : HELD_BYTES;
	__u32 place;

	for (place = 0; place < HELD; place++)
		if (!(f->held & 1 << place))
			break;
	if (place == HELD) {
		lose(cur);
		return;
	}
	COUNT(g->slot, late);
	key.place = place;
	s->held.seq = g->seq;
	s->held.len = g->len;
	s->held.have = n;
	s->value = n - 1;
	n = (s->value & (HELD_BYTES - 1)) + 1;
	if (bpf_skb_load_bytes(cur->skb, g->off, s->held.data, n)) {
		lose(cur);
		return;
	}
	if (bpf_map_update_elem(&held_segments, &key, &s->held, BPF_ANY))
		return;
	f->held |= 1 << place;
}

/* Parses a held segment that is due, if there is one; 1: none. */
static long release(__u32 i, struct cursor *cur)
{
	struct scratch *s = cur->s;
	struct flow *f = cur->f;
	struct held_key key = { .conn = cur->c->id, .direction = cur->direction };
	__u32 place, behind;
	struct held *h;

	if (!f->held || f->state == LOST || f->state == OPAQUE)
		return 1;
	for (place = 0; place < HELD; place++) {
		if (!(f->held & 1 << place))
			continue;
		key.place = place;
		h = bpf_map_lookup_elem(&held_segments, &key);
		if (!h) {
			f->held &= ~(1 << place);
			return 0;
		}
		behind = f->next - h->seq;
		if ((__s32)behind < 0)
			continue; /* still early */
		f->held &= ~(1 << place);
		if (behind < h->len) {
			cur->held = h;
			s->off = behind;
			s->end = h->len - behind;
			s->have = h->have > behind ? h->have - behind : 0;
			s->chunked = 0;
			f->next += s->end;
			parse(cur);
		}
		bpf_map_delete_elem(&held_segments, &key);
		return 0;
	}
	return 1;
}

/* A direction that is not followed: perhaps a message begins here. */
static __always_inline int resync(struct cursor *cur, struct segment *g)
{
	struct scratch *s = cur->s;
	struct conn *c = cur->c;
	struct flow *f = cur->f;

	f->next = g->seq + g->len;
	f->held = 0;
	f->carried = 0;
	if (!g->len || (cur->direction == TO_CLIENT && c->resumed != c->epoch))
		return -1;
	s->carried = 0;
	s->pos = 0;
	s->win_at = 0;
	s->win_n = 0;
	if (!message_begins(cur))
		return -1;
	f->state = START;
	f->flags = 0;
	if (cur->direction == TO_SERVER) {
		c->answers = c->requests;
		c->resumed = c->epoch;
	}
	return 0;
}

/* The bytes of a segment, in order. */
static __always_inline void payload(struct cursor *cur, struct segment *g)
{
	struct scratch *s = cur->s;
	struct flow *f = cur->f;
	__s32 ahead;

	if (!f->known) {
		f->known = 1;
		f->next = g->seq;
	}
	ahead = g->seq - f->next;
	if (ahead > REACH || ahead < -REACH)
		return; /* of another age, or forged */
	if (ahead < 0) {
		if ((__s32)(ahead + g->len) <= 0) {
			if (g->len)
				COUNT(g->slot, repeated);
			return;
		}
		COUNT(g->slot, repeated);
		g->off -= ahead;
		g->len += ahead;
		g->seq -= ahead;
		ahead = 0;
	}
	s->off = g->off;
	s->end = g->len;
	s->have = g->len;
	if (f->state == LOST) {
		if (resync(cur, g))
			return;
		ahead = 0;
	}
	if (f->state == OPAQUE) {
		f->next = g->seq + g->len;
		return;
	}
	if (ahead > 0 && f->next != g->seq) {
		if (!immaterial(f, ahead)) {
			hold(cur, g);
			return;
		}
		s->off -= ahead; /* nobody reads before the segment */
		s->end += ahead;
		s->have += ahead;
	}
	f->next = g->seq + g->len;
	parse(cur);
	bpf_loop(HELD + 1, release, cur, 0);
}

/* Tells of an answer in progress when that is news. */
static __always_inline void progress(struct cursor *cur)
{
	struct flow *f = cur->f;
	struct conn *c = cur->c;

	if (cur->direction == TO_SERVER) {
		if (f->flags & F_OWED)
			emit_request(cur, 0);
		return;
	}
	if (f->flags & F_OWED || c->gap_n >= GAPS || (c->gap_n && cur->s->now - c->batch >= BATCH_NS))
		emit_response(cur, 0);
}

/* A direction has come to its end. */
static __always_inline int ended(struct cursor *cur)
{
	struct conn *c = cur->c;
	struct flow *f = cur->f;

	if (cur->direction == TO_CLIENT && f->state == TO_CLOSE)
		message_end(cur);
	c->fins |= 1 << cur->direction;
	emit_close(c, cur->s->now, BY_FIN + cur->direction);
	if (cur->direction == TO_CLIENT)
		c->answers = c->requests; /* there will be none */
	return c->fins == 3;
}

/* Returns 1 when the connection is over. */
static __always_inline int advance(struct cursor *cur, struct segment *g)
{
	struct conn *c = cur->c;
	struct flow *f = cur->f;

	if (f->epoch != c->epoch) { /* the other direction lost its way */
		f->epoch = c->epoch;
		f->state = LOST;
	}
	if (c->opaque)
		f->state = OPAQUE;
	if (g->flags & SYN) {
		f->known = 1;
		f->next = ++g->seq;
	}
	if (g->flags & FIN && !f->has_fin) {
		f->has_fin = 1;
		f->fin = g->seq + g->len;
	}
	if (g->len) {
		payload(cur, g);
		progress(cur);
	}
	if (f->has_fin && !(c->fins & 1 << cur->direction) && (__s32)(f->next - f->fin) >= 0)
		return ended(cur);
	return 0;
}

static __always_inline int reset(struct cursor *cur, struct segment *g)
{
	struct flow *f = cur->f;
	__s32 off = g->seq - f->next;

	if (f->known && (off > REACH || off < -REACH))
		return 0; /* forged */
	emit_close(cur->c, cur->s->now, BY_RESET + cur->direction);
	return 1;
}

static __always_inline void direct(struct cursor *cur, struct segment *g)
{
	__u64 *at = &cur->f->lock;
	int over;

	if (lock(at)) {
		COUNT(g->slot, contended);
		__sync_fetch_and_add(&cur->c->epoch, 1);
		return;
	}
	over = g->flags & RST ? reset(cur, g) : advance(cur, g);
	unlock(at);
	if (over)
		drop_conn(&g->key);
}

static __always_inline void follow(struct __sk_buff *skb, struct scratch *s)
{
	struct cursor cur = { .skb = skb, .s = s };
	struct segment *g = &s->g;

	s->now = bpf_ktime_get_ns();
	s->chunked = 0;
	cur.c = find(g, s);
	if (!cur.c)
		return;
	if (g->direction == TO_SERVER) {
		cur.f = &cur.c->to_server;
		cur.direction = TO_SERVER;
	} else {
		cur.f = &cur.c->to_client;
		cur.direction = TO_CLIENT;
	}
	direct(&cur, g);
}

static __always_inline struct scratch *take_pad(__u32 level)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch_pads, &level);

	return s && __sync_val_compare_and_swap(&s->busy, 0, 1) == 0 ? s : 0;
}

/* Observes a segment. */
static __always_inline void observe(struct __sk_buff *skb, struct packet *p, __u64 cgroup)
{
	struct scratch *s = take_pad(0);

	if (!s)
		s = take_pad(1);
	if (!s)
		s = take_pad(2);
	if (!s) {
		COUNT(0, contended);
		return;
	}
	segment(p, &s->g, cgroup);
	if (p->fragment)
		COUNT(s->g.slot, fragments);
	else
		follow(skb, s);
	unlock(&s->busy);
}

#endif
