/*
 * What the observer keeps: one entry per connection, how its two directions stand, and what it
 * tells user space. Everything here is private to the kernel but the events, which carry times,
 * counts and at most LINE bytes of a request line.
 *
 * The programs must load with CAP_BPF and CAP_NET_RAW alone. Without CAP_PERFMON the verifier masks
 * each variable index, and insists that one instruction always adds to the same base. So indexes are
 * read from memory, and only arrays that stand at one fixed offset are indexed.
 */
#ifndef PROBE_STATE_H
#define PROBE_STATE_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define LINE 128  /* bytes of a request line that are told */
#define VIEW 128  /* bytes that the parser looks at in one step */
#define WIN 512   /* bytes of payload that are loaded at a time */
#define MASK 1023 /* of an index into the window */
#define GAPS 30   /* chunk gaps told at once */
#define HELD 4    /* segments per direction that wait for an earlier one */
#define HELD_BYTES 2048
#define LEVELS 3
#define PORTS 64 /* port slots; 0 is "not observed" */

/* The other direction's CPU is done in about a microsecond. */
#define SPINS 4096
/* Steps per segment: one chunk or header line each; 64 KB hold no more than 10,923 chunks. */
#define STEPS 16384
#define BATCH_NS 250000000ULL
#define WAKE_NS 1000000ULL
/* A segment this far ahead, or behind, is not of this stream. */
#define REACH (1 << 24)

enum direction { TO_SERVER = 0, TO_CLIENT = 1 };

/* Where a direction's parser stands. */
enum state {
	START = 0,	/* before a message */
	HEADER,		/* at the beginning of a header or trailer line */
	HEADER_REST,	/* inside a line that is longer than a view */
	CHUNK,		/* at a chunk's size */
	SKIP,		/* inside what need not be looked at: left says how much */
	TO_CLOSE,	/* in a body that ends with the connection */
	LOST,		/* bytes were missed: waits for a message that begins a segment */
	OPAQUE,		/* HTTP/2, TLS, upgraded or not HTTP at all */
};

/* What is known of the message at hand, and what was told of it. */
enum {
	F_BEGUN = 1 << 0,
	F_CHUNKED = 1 << 1,
	F_TRAILER = 1 << 2,
	F_SSE = 1 << 3,
	F_ERROR = 1 << 4,     /* a streamed error event */
	F_DONE = 1 << 5,      /* data: [DONE] */
	F_SYNTHETIC = 1 << 6, /* X-Perf-Synthetic */
	F_ORPHAN = 1 << 7,    /* a response whose request was not seen */
	F_CHUNKS = 1 << 8,    /* in the chunk part of the body: a skip ends with another chunk */
	F_OWED = 1 << 9,      /* something has changed since the last event */
	F_TOLD = 1 << 10,     /* an event was sent */
	F_FIRST = 1 << 11,    /* the first chunk was told */
	F_NO_BODY = 1 << 12,  /* answers a HEAD */
	F_CONNECT = 1 << 13,  /* answers a CONNECT */
	F_LENGTH = 1 << 14,   /* Content-Length was given */
};

struct key {
	__u8 client[16]; /* IPv4 addresses are mapped: ::ffff:a.b.c.d */
	__u8 server[16];
	__u16 client_port;
	__u16 server_port;
	__u32 zero;
	__u64 cgroup; /* of the server's socket; 0 where packets are observed on an interface */
};

struct flow {
	__u64 lock;
	__u32 next; /* sequence number of the next byte to parse */
	__u32 fin;  /* sequence number of the end, with has_fin */
	__u32 epoch;
	__u8 state;
	__u8 known; /* next is known */
	__u8 has_fin;
	__u8 held; /* bit per held segment */
	__u16 flags;
	__u16 status;
	__u32 carried; /* bytes at the end of the last segment that wait for more */
	__u32 no;      /* number of the message at hand in its connection, from 1 */
	__u64 left;
	__u64 begin; /* when the message's first byte was seen */
	__u64 end;   /* when its last byte was */
	__u64 bytes; /* of body */
	__u8 carry[VIEW];
};

struct conn {
	__u64 id;
	__u64 heads;	/* bit per request number: a HEAD */
	__u64 connects; /* bit per request number: a CONNECT */
	__u32 epoch;	/* grows when synchronisation is lost */
	__u32 resumed;	/* the epoch in which requests were found again */
	__u32 requests; /* seen to the end of their headers */
	__u32 answers;	/* seen to their end, or given up */
	volatile __u16 slot;
	__u8 fins; /* bit per direction */
	__u8 opaque;
	__u32 line_n;
	struct flow to_server;
	struct flow to_client;
	__u8 line[LINE];
	/* The stream of chunks of the answer at hand. */
	__u64 first_chunk;
	__u64 last_chunk;
	__u64 batch; /* when the first gap that is not told yet ended */
	__u32 chunks; /* with tokens */
	__u32 parts;  /* of any kind */
	__u32 gap_n;
	__u32 pad;
	__u32 gaps[GAPS + 2]; /* in units of 1,024 ns */
};

/* A TCP segment of an observed port. */
struct segment {
	struct key key;
	__u32 direction;
	__u32 seq, len, off; /* off: of its payload in the packet */
	__u8 flags;
	volatile __u8 slot; /* indexes must come from memory: see above */
};

struct held_key {
	__u64 conn;
	__u32 direction;
	__u32 place;
};

struct held {
	__u32 seq, len, have, pad;
	__u8 data[HELD_BYTES + WIN];
};

enum event_type { E_REQUEST = 1, E_REQUEST_END, E_RESPONSE, E_CLOSE };

struct event {
	__u8 type;
	__u8 how; /* of E_CLOSE */
	__u16 slot;
	__u32 no;
	__u64 conn;
	__u64 at;
};

struct request {
	struct event e; /* at: when the request began */
	__u64 end;	/* of its body; 0: not yet */
	__u64 bytes;
	struct key key;
	__u32 flags;
	__u32 line_n;
	__u8 line[LINE];
};

struct request_end {
	struct event e; /* at: the end of the body */
	__u64 bytes;
};

/* May come several times for one response; later ones add gaps and replace the rest. */
struct response {
	struct event e; /* at: the response's first byte */
	__u64 first_chunk;
	__u64 last; /* latest byte */
	__u64 bytes;
	__u32 chunks;
	__u16 status;
	__u8 over; /* the response is complete */
	__u8 gap_n;
	__u32 flags;
	__u32 parts;
	__u32 gaps[GAPS];
};

enum close { BY_FIN = 0, BY_RESET = 2, BY_LOSS = 4, BY_REUSE = 6, BY_UPGRADE = 8 }; /* plus the direction */

/* Per port slot. */
struct counts {
	__u64 connections, http2, tls, other, upgraded;
	__u64 lost, late, repeated, orphans, midway, dropped, contended, over_bound, fragments;
};

struct scratch {
	__u64 busy;
	__u32 pos, end, have;	 /* of the segment, carried bytes included */
	__u32 win_at, win_n;	 /* what the window shows of it */
	__u32 carried;		 /* bytes before the payload */
	__u32 off;		 /* of the payload in the packet */
	__u32 at, n;		 /* the view: window index and length */
	volatile __u32 found, index;
	volatile __u64 value;
	__u32 chunked;		 /* this segment's body was noted as a chunk */
	__u64 now;
	__u8 win[MASK + 1 + VIEW];
	struct segment g;
	struct held held;
	struct conn fresh;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct key);
	__type(value, struct conn);
	__uint(map_flags, BPF_F_WRONLY); /* user space cannot read what is carried over */
} conns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 512);
	__type(key, struct held_key);
	__type(value, struct held);
	__uint(map_flags, BPF_F_WRONLY);
} held_segments SEC(".maps");

/* Several per CPU: a task that sends may be interrupted by a packet that comes in, or by another. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LEVELS);
	__type(key, __u32);
	__type(value, struct scratch);
	__uint(map_flags, BPF_F_WRONLY);
} scratch_pads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

struct counts counters[PORTS];
__u64 next_id = 1;
__s64 live; /* connections in conns */
__u64 woken; /* when user space was woken last */

volatile const __u8 port_slot[65536];
volatile const __u32 bound = 8192;     /* of live connections that are all kept */
volatile const __u64 wake_bytes = 1 << 18; /* of events that wake user space early */

#define COUNT(slot, what) __sync_fetch_and_add(&counters[(slot) & (PORTS - 1)].what, 1)

struct cursor {
	struct __sk_buff *skb;
	struct conn *c;
	struct flow *f;
	struct scratch *s;
	struct held *held; /* the segment comes from here, not from skb */
	__u32 direction;
};

#endif
