package des

import "container/list"

// pool accounts for the blocks of the KV cache. A block is free, held by sequences, or reusable: held by
// nobody but still carrying a prefix. Reusable blocks are evicted in least-recently-used order, a
// sequence's later blocks before its earlier ones.
//
// Blocks that cannot be shared are only counted, not tracked one by one. Two sequences that compute the
// same prefix at the same time end up on one block; real engines differ here, some keep the duplicate
// until its owner ends.
type pool struct {
	total, size int // blocks; tokens per block
	free        int
	reusable    int
	byHash      map[uint64]*block
	lru         *list.List // of *block, front evicted first
}

// block is one shareable block, or a run of unshareable ones waiting to be overwritten.
type block struct {
	hash  uint64
	refs  int
	count int           // above 1 only for unshareable runs
	spot  *list.Element // in the LRU list while refs is 0
}

// holding is what one sequence has: shared leading blocks, then private ones.
type holding struct {
	shared  []*block
	private int
}

func newPool(total, size int) *pool {
	return &pool{total: total, size: size, free: total, byHash: map[uint64]*block{}, lru: list.New()}
}

func (p *pool) available() int { return p.free + p.reusable }

func (p *pool) used() int { return p.total - p.available() }

// blocks is the number of blocks that hold tokens.
func (p *pool) blocks(tokens int) int { return (tokens + p.size - 1) / p.size }

// missing is the number of blocks h lacks to hold tokens.
func (p *pool) missing(h *holding, tokens int) int {
	return max(p.blocks(tokens)-len(h.shared)-h.private, 0)
}

// lookup finds how many leading hashes are cached, and how many of those blocks nobody holds.
func (p *pool) lookup(hashes []uint64) (hits, idle int) {
	for _, hash := range hashes {
		b := p.byHash[hash]
		if b == nil {
			break
		}
		hits++
		if b.refs == 0 {
			idle++
		}
	}
	return hits, idle
}

// adopt gives an empty holding the cached blocks of hashes, which lookup has just found.
func (p *pool) adopt(h *holding, hashes []uint64) {
	for _, hash := range hashes {
		h.shared = append(h.shared, p.hold(p.byHash[hash]))
	}
}

func (p *pool) hold(b *block) *block {
	if b.refs == 0 {
		p.lru.Remove(b.spot)
		b.spot = nil
		p.reusable--
	}
	b.refs++
	return b
}

// grow makes h large enough for tokens, evicting reusable blocks; false, and no change, if it cannot.
func (p *pool) grow(h *holding, tokens int) bool {
	n := p.missing(h, tokens)
	if n > p.available() {
		return false
	}
	p.evict(n - p.free)
	p.free -= n
	h.private += n
	return true
}

// evict turns n reusable blocks into free ones.
func (p *pool) evict(n int) {
	for n > 0 {
		front := p.lru.Front()
		b := front.Value.(*block)
		k := min(n, b.count)
		b.count -= k
		if b.count == 0 {
			p.lru.Remove(front)
			if p.byHash[b.hash] == b {
				delete(p.byHash, b.hash)
			}
		}
		p.reusable -= k
		p.free += k
		n -= k
	}
}

// publish makes the first len(hashes) blocks of h shareable under their hashes.
func (p *pool) publish(h *holding, hashes []uint64) {
	for _, hash := range hashes[min(len(h.shared), len(hashes)):] {
		if h.private == 0 {
			return
		}
		h.private--
		if b := p.byHash[hash]; b != nil { // computed twice: keep one
			p.free++
			h.shared = append(h.shared, p.hold(b))
			continue
		}
		b := &block{hash: hash, refs: 1, count: 1}
		p.byHash[hash] = b
		h.shared = append(h.shared, b)
	}
}

// release gives all blocks of h back. With keep they stay reusable, otherwise private ones become free.
func (p *pool) release(h *holding, keep bool) {
	switch {
	case h.private > 0 && keep:
		run := &block{count: h.private}
		run.spot = p.lru.PushBack(run)
		p.reusable += h.private
	default:
		p.free += h.private
	}
	for i := len(h.shared) - 1; i >= 0; i-- {
		b := h.shared[i]
		if b.refs--; b.refs == 0 {
			b.spot = p.lru.PushBack(b)
			p.reusable++
		}
	}
	*h = holding{shared: h.shared[:0]}
}

// Name spaces of block hashes that this package makes up, so that they never meet.
const (
	requestSpace = uint64(iota) << 62 // blocks that only their own request can find again
	groupSpace                        // prefixes shared by a workload's groups
	traceSpace                        // prefixes recorded in a trace
)

// nameBlock is the hash of the index-th block of a prefix.
func nameBlock(space, prefix uint64, index int) uint64 {
	return mix(mix(space^prefix) + uint64(index))
}

// mix is the finalizer of SplitMix64, a bijection that spreads neighbouring inputs.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
