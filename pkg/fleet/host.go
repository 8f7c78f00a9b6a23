package fleet

// Counters that the host tells of an engine's processes, as increases within a window.
const (
	EngineCPUSeconds       = "engine_cpu_seconds"       // used by all processes of the engine
	EngineFrontCPUSeconds  = "engine_front_cpu_seconds" // used by the process that listens on the engine's port
	EngineRunWaitSeconds   = "engine_runwait_seconds"   // the thread that waited longest for a core while it could run
	EngineThrottledSeconds = "engine_throttled_seconds" // held back by the CPU quota of a cgroup
	EngineStoppedSeconds   = "engine_stopped_seconds"   // a process of the engine was stopped by a signal
	HostCPUSeconds         = "host_cpu_seconds"         // used by everybody on the host
	HostStealSeconds       = "host_steal_seconds"       // taken from the host by its hypervisor
	ClientSeconds          = "client_seconds"           // open connections to the engine × time
	ClientBacklogSeconds   = "client_backlog_seconds"   // the same, of those whose client does not take what is sent
)

// Gauges that the host tells.
const (
	EngineAgeSeconds = "engine_age_seconds" // since the engine's first process was started
	HostCores        = "host_cores"
)

// SourceHost is the operating system's view of an engine's processes and connections.
const SourceHost = "host"
