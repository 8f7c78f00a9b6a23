// Package version holds the build stamp of all programs.
package version

import "runtime/debug"

// Version is set by the linker (-X); "dev" in plain builds.
var Version = "dev"

// String returns the version with the VCS revision where the build knows it.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return Version + "+" + s.Value[:12]
		}
	}
	return Version
}
