package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"

	agentv1 "github.com/optiinfra/performance-agent/proto/agent/v1"
)

// BodyHash is the SHA-256, in hex, of a configuration body in canonical form: the engine's name
// and the settings sorted by name. Equal bodies have equal hashes on every machine.
func BodyHash(b *agentv1.Body) string {
	type setting struct{ K, V string }
	canonical := struct {
		Engine   string
		Settings []setting
	}{Engine: b.GetEngine()}
	for _, k := range slices.Sorted(maps.Keys(b.GetSettings())) {
		canonical.Settings = append(canonical.Settings, setting{k, b.GetSettings()[k]})
	}
	raw, err := json.Marshal(canonical)
	if err != nil {
		panic(err) // strings always marshal
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
