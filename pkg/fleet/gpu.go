package fleet

// SourceGPU is what the driver tells of the GPUs that an engine uses.
const SourceGPU = "gpu"

// Gauges of an engine's GPUs, all that answer taken together as said. One is absent where the driver
// does not tell it of every one of them. Ratios are between 0 and 1.
const (
	GPUCount      = "gpu_count"
	GPULost       = "gpu_lost"       // devices that no longer answer
	GPUAttributed = "gpu_attributed" // 1: they hold the engine's processes; 0: taken as the engine's because no other is seen beside it

	// GPUUtilizationRatio is the share of time in which any kernel was resident. It says nothing of
	// how much was done: do not judge load by it.
	GPUUtilizationRatio       = "gpu_utilization_ratio"        // mean
	GPUMemoryUtilizationRatio = "gpu_memory_utilization_ratio" // mean; share of time in which memory was accessed
	GPUMemoryUsedBytes        = "gpu_memory_used_bytes"        // sum
	GPUMemoryTotalBytes       = "gpu_memory_total_bytes"       // sum
	GPUEngineMemoryBytes      = "gpu_engine_memory_bytes"      // sum, of the engine's processes alone

	GPUPowerWatts               = "gpu_power_watts"                // sum
	GPUPowerLimitWatts          = "gpu_power_limit_watts"          // sum
	GPUTemperatureCelsius       = "gpu_temperature_celsius"        // highest
	GPUMemoryTemperatureCelsius = "gpu_memory_temperature_celsius" // highest
	GPUSMClockRatio             = "gpu_sm_clock_ratio"             // lowest, of the highest clock possible
	GPUMemoryClockRatio         = "gpu_memory_clock_ratio"         // lowest, of the highest clock possible
	// Shares of the GPUs whose clock is held down now.
	GPUPowerThrottledRatio   = "gpu_power_throttled_ratio"
	GPUThermalThrottledRatio = "gpu_thermal_throttled_ratio"
	GPUHardwareSlowdownRatio = "gpu_hardware_slowdown_ratio"

	GPUSMActiveRatio     = "gpu_sm_active_ratio"     // mean; 1 − it is the gap between kernels
	GPUSMActiveRatioMin  = "gpu_sm_active_ratio_min" // of the least active GPU
	GPUSMOccupancyRatio  = "gpu_sm_occupancy_ratio"  // mean
	GPUTensorActiveRatio = "gpu_tensor_active_ratio" // mean; tops out near .93
	GPUDRAMActiveRatio   = "gpu_dram_active_ratio"   // mean; tops out near .8

	GPUPCIeSentBytesPerSecond       = "gpu_pcie_sent_bytes_per_second"       // sum
	GPUPCIeReceivedBytesPerSecond   = "gpu_pcie_received_bytes_per_second"   // sum
	GPUNVLinkSentBytesPerSecond     = "gpu_nvlink_sent_bytes_per_second"     // sum
	GPUNVLinkReceivedBytesPerSecond = "gpu_nvlink_received_bytes_per_second" // sum
	GPUPCIeGenerationRatio          = "gpu_pcie_generation_ratio"            // lowest, of the highest possible; idle GPUs lower it
	GPUPCIeWidthRatio               = "gpu_pcie_width_ratio"                 // lowest, of the widest possible
	GPUNVLinksActive                = "gpu_nvlinks_active"                   // sum
	GPUNVLinksDown                  = "gpu_nvlinks_down"                     // sum
	GPURemapPending                 = "gpu_remap_pending"                    // GPUs whose memory waits for a reset to be repaired
	GPURemapFailed                  = "gpu_remap_failed"                     // GPUs whose memory cannot be repaired
)

// Counters of an engine's GPUs, as increases since the window before; sums over the GPUs unless said.
const (
	GPUEnergyJoules            = "gpu_energy_joules"
	GPUPowerViolationSeconds   = "gpu_power_violation_seconds"   // of the GPU that was held down longest
	GPUThermalViolationSeconds = "gpu_thermal_violation_seconds" // of the GPU that was held down longest
	GPUECCCorrected            = "gpu_ecc_corrected"
	GPUECCUncorrected          = "gpu_ecc_uncorrected"
	GPUPCIeReplays             = "gpu_pcie_replays"
	GPUNVLinkErrors            = "gpu_nvlink_errors" // checksum errors, replays and recoveries
	GPUNVLinkSentBytes         = "gpu_nvlink_sent_bytes"
	GPUNVLinkReceivedBytes     = "gpu_nvlink_received_bytes"
)
