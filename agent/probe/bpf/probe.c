// SPDX-License-Identifier: Apache-2.0
/*
 * The observer's programs: two ways to see a packet, one parser. They read and change nothing: the
 * socket filter keeps no packet for its socket, and the control-group programs let all pass.
 */
#include "tcp.h"

#define OTHER_HOST 3 /* PACKET_OTHERHOST: seen only because somebody listens to everything */

/* AF_PACKET of type SOCK_DGRAM: packets begin with the IP header. */
SEC("socket")
int packet(struct __sk_buff *skb)
{
	struct packet p;

	if (skb->pkt_type != OTHER_HOST && !dissect(skb, &p))
		observe(skb, &p, 0);
	return 0;
}

/* What comes in to a socket of the group: the server's side of requests. */
SEC("cgroup_skb/ingress")
int ingress(struct __sk_buff *skb)
{
	struct packet p;

	if (!dissect(skb, &p) && p.direction == TO_SERVER)
		observe(skb, &p, bpf_skb_cgroup_id(skb));
	return 1;
}

/* What a socket of the group sends: the server's answers. */
SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	struct packet p;

	if (!dissect(skb, &p) && p.direction == TO_CLIENT)
		observe(skb, &p, bpf_skb_cgroup_id(skb));
	return 1;
}

static long tally(void *map, struct key *key, struct conn *c, __s64 *n)
{
	++*n;
	return 0;
}

/* Run by user space now and then: how many connections there are, where some were evicted. */
SEC("socket")
int census(struct __sk_buff *skb)
{
	__s64 n = 0;

	bpf_for_each_map_elem(&conns, tally, &n, 0);
	live = n;
	return 0;
}

char LICENSE[] SEC("license") = "Apache-2.0";
