// Package probe sees every HTTP/1.1 request of the engines beside it, without being in its way: an
// eBPF program reads the TCP segments of chosen ports and tells when each request began, when its
// answer began, when each chunk of it came, and how it ended. Nothing is altered, delayed or dropped,
// and no payload leaves the kernel but the request line, of which a class is kept.
//
// The kernel part is in bpf/: one parser, and two ways to reach it. A sidecar observes the interfaces
// of its pod (AF_PACKET, CAP_BPF and CAP_NET_RAW); a node agent observes sockets by control group
// (cgroup_skb, CAP_BPF and CAP_NET_ADMIN). HTTP/2, TLS and what is no HTTP at all are recognised by
// their first bytes and counted, never guessed at.
//
// What the numbers are good for, and what they are not:
//
//   - FirstChunk−Start is the time to first token of a streamed answer, as the network sees it: the
//     engine's own time and the way through its HTTP server, without the network beyond this host.
//     In SGLang's and vLLM's chat streams the first event carries a role and no token, but is
//     written in the same turn of the loop as the first token, or with it (1–2 ms).
//   - A gap between chunks is a gap between outputs. Engines put one or more tokens into a chunk: more
//     with speculation, with a stream interval above one, and when their server task lags behind; and
//     they write fewer chunks than tokens when a parser holds text back. So time per output token is
//     not the mean gap. It is the decode time Last−FirstChunk, divided by the tokens after the first,
//     and tokens are estimated as chunks × r, where r is the engine's own count of generated tokens over
//     the chunks seen in the same span of time (Ratio). The error of that has three parts. At both edges
//     of the span a stream in progress has tokens counted whose chunk was not written yet, or the other
//     way round: at most one chunk for each, so the relative error of r is below 2·streams/chunks of the
//     span, 2 % for 100 chunks per stream. Chunks without a token (the role, the usage at the end) make r
//     too small by up to 2/chunks of a request. And r is the mean over requests: one that speculates better
//     than the others has its own time per token overstated by the ratio of the two. Requests that do
//     not stream have tokens and no chunks; where they make up more than a tenth of the requests of a
//     span there is no r, and no time per token.
package probe

//go:generate bpf2go -go-package probe -no-global-types -target bpfel -cc clang -cflags "-O2 -g -Wall -Werror -mcpu=v2" observer bpf/probe.c -- -I$BPF_INCLUDE
