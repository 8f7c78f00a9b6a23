package gpu

// Metric is one number that a reader asks for.
type Metric struct {
	// Name is the key in Reading.Values and Reading.Unavailable, with its unit.
	Name string
	Help string
	// Instance: a MIG instance has it too.
	Instance bool
}

// Names of metrics. Ratios are between 0 and 1; counters rise since the driver was loaded.
const (
	UtilizationRatio       = "utilization_ratio"
	MemoryUtilizationRatio = "memory_utilization_ratio"

	MemoryTotalBytes    = "memory_total_bytes"
	MemoryUsedBytes     = "memory_used_bytes"
	MemoryFreeBytes     = "memory_free_bytes"
	MemoryReservedBytes = "memory_reserved_bytes"

	PowerWatts             = "power_watts"
	PowerLimitWatts        = "power_limit_watts"
	PowerLimitDefaultWatts = "power_limit_default_watts"
	PowerLimitMaxWatts     = "power_limit_max_watts"
	EnergyJoules           = "energy_joules_total"

	SMClockHertz        = "sm_clock_hertz"
	SMClockMaxHertz     = "sm_clock_max_hertz"
	MemoryClockHertz    = "memory_clock_hertz"
	MemoryClockMaxHertz = "memory_clock_max_hertz"

	TemperatureCelsius         = "temperature_celsius"
	TemperatureSlowdownCelsius = "temperature_slowdown_celsius"
	MemoryTemperatureCelsius   = "memory_temperature_celsius"

	ClockEventReasons           = "clock_event_reasons"
	PowerViolationSeconds       = "power_violation_seconds_total"
	ThermalViolationSeconds     = "thermal_violation_seconds_total"
	BoardLimitViolationSeconds  = "board_limit_violation_seconds_total"
	ReliabilityViolationSeconds = "reliability_violation_seconds_total"

	ECCEnabled                = "ecc_enabled"
	ECCCorrected              = "ecc_corrected_total"
	ECCUncorrected            = "ecc_uncorrected_total"
	ECCCorrectedLifetime      = "ecc_corrected_lifetime_total"
	ECCUncorrectedLifetime    = "ecc_uncorrected_lifetime_total"
	RemappedRowsCorrectable   = "remapped_rows_correctable"
	RemappedRowsUncorrectable = "remapped_rows_uncorrectable"
	RemapPending              = "remap_pending"
	RemapFailed               = "remap_failed"

	PCIeLinkGeneration    = "pcie_link_generation"
	PCIeLinkGenerationMax = "pcie_link_generation_max"
	PCIeLinkWidth         = "pcie_link_width"
	PCIeLinkWidthMax      = "pcie_link_width_max"
	PCIeReplays           = "pcie_replays_total"
	PCIeSentBytes         = "pcie_sent_bytes_per_second"
	PCIeReceivedBytes     = "pcie_received_bytes_per_second"

	NVLinksActive       = "nvlinks_active"
	NVLinksDown         = "nvlinks_down"
	NVLinkFlitErrors    = "nvlink_crc_flit_errors_total"
	NVLinkDataErrors    = "nvlink_crc_data_errors_total"
	NVLinkReplays       = "nvlink_replays_total"
	NVLinkRecoveries    = "nvlink_recoveries_total"
	NVLinkSentBytes     = "nvlink_sent_bytes_total"
	NVLinkReceivedBytes = "nvlink_received_bytes_total"

	MIGEnabled              = "mig_enabled"
	MIGInstances            = "mig_instances"
	Processes               = "processes"
	ProcessUtilizationRatio = "process_utilization_ratio"

	GPMSMActive            = "gpm_sm_active_ratio"
	GPMSMOccupancy         = "gpm_sm_occupancy_ratio"
	GPMTensorActive        = "gpm_tensor_active_ratio"
	GPMDRAMActive          = "gpm_dram_active_ratio"
	GPMPCIeSentBytes       = "gpm_pcie_sent_bytes_per_second"
	GPMPCIeReceivedBytes   = "gpm_pcie_received_bytes_per_second"
	GPMNVLinkSentBytes     = "gpm_nvlink_sent_bytes_per_second"
	GPMNVLinkReceivedBytes = "gpm_nvlink_received_bytes_per_second"
)

// Metrics lists all that a reader asks of a device, in the order in which people read them.
func Metrics() []Metric {
	return []Metric{
		{UtilizationRatio, "share of time in which any kernel was resident; says nothing of how much it did", false},
		{MemoryUtilizationRatio, "share of time in which device memory was read or written", false},
		{MemoryTotalBytes, "device memory", true},
		{MemoryUsedBytes, "device memory allocated", true},
		{MemoryFreeBytes, "device memory free", true},
		{MemoryReservedBytes, "device memory kept by the driver", true},
		{PowerWatts, "power drawn", false},
		{PowerLimitWatts, "power limit in force", false},
		{PowerLimitDefaultWatts, "power limit that the device was delivered with", false},
		{PowerLimitMaxWatts, "highest power limit that may be set", false},
		{EnergyJoules, "energy drawn", false},
		{SMClockHertz, "clock of the multiprocessors", false},
		{SMClockMaxHertz, "highest clock of the multiprocessors", false},
		{MemoryClockHertz, "clock of the memory", false},
		{MemoryClockMaxHertz, "highest clock of the memory", false},
		{TemperatureCelsius, "temperature of the chip", false},
		{TemperatureSlowdownCelsius, "temperature at which the chip slows down", false},
		{MemoryTemperatureCelsius, "temperature of the memory", false},
		{ClockEventReasons, "bits of what holds the clocks down now; named under the device", false},
		{PowerViolationSeconds, "time held down by the power limit", false},
		{ThermalViolationSeconds, "time held down by temperature", false},
		{BoardLimitViolationSeconds, "time held down by the board's limit", false},
		{ReliabilityViolationSeconds, "time held down by the reliability limit of the voltage", false},
		{ECCEnabled, "1 where memory errors are corrected", false},
		{ECCCorrected, "memory errors corrected", false},
		{ECCUncorrected, "memory errors that could not be corrected", false},
		{ECCCorrectedLifetime, "memory errors corrected in the device's life", false},
		{ECCUncorrectedLifetime, "memory errors not corrected in the device's life", false},
		{RemappedRowsCorrectable, "memory rows replaced after correctable errors", false},
		{RemappedRowsUncorrectable, "memory rows replaced after uncorrectable errors", false},
		{RemapPending, "1 while a row waits for a reset to be replaced", false},
		{RemapFailed, "1 after a row could not be replaced", false},
		{PCIeLinkGeneration, "generation of the PCIe link now; idle devices lower it", false},
		{PCIeLinkGenerationMax, "highest generation of device and slot", false},
		{PCIeLinkWidth, "lanes of the PCIe link now", false},
		{PCIeLinkWidthMax, "most lanes of device and slot", false},
		{PCIeReplays, "packets sent again on the PCIe link", false},
		{PCIeSentBytes, "sent over PCIe, in a 20 ms sample; asked only where GPM has none", false},
		{PCIeReceivedBytes, "received over PCIe, in a 20 ms sample; asked only where GPM has none", false},
		{NVLinksActive, "NVLinks in service", false},
		{NVLinksDown, "NVLinks out of service; those without a peer count too", false},
		{NVLinkFlitErrors, "NVLink flits with checksum errors", false},
		{NVLinkDataErrors, "NVLink data packets with checksum errors", false},
		{NVLinkReplays, "NVLink packets sent again", false},
		{NVLinkRecoveries, "NVLink recoveries", false},
		{NVLinkSentBytes, "payload sent over all NVLinks", false},
		{NVLinkReceivedBytes, "payload received over all NVLinks", false},
		{MIGEnabled, "1 where the device is cut into MIG instances", false},
		{MIGInstances, "MIG instances that may be used from here", false},
		{Processes, "processes that use the device", false},
		{ProcessUtilizationRatio, "share of time in which kernels of the processes were resident, together", false},
		{GPMSMActive, "share of multiprocessors that were busy", true},
		{GPMSMOccupancy, "active warps of the most that are possible", true},
		{GPMTensorActive, "share of time in which tensor pipes worked", true},
		{GPMDRAMActive, "memory bandwidth used of the highest possible", true},
		{GPMPCIeSentBytes, "sent over PCIe", true},
		{GPMPCIeReceivedBytes, "received over PCIe", true},
		{GPMNVLinkSentBytes, "sent over all NVLinks", true},
		{GPMNVLinkReceivedBytes, "received over all NVLinks", true},
	}
}
