// Perf-gpu asks NVML once a second and writes what it says as one line of JSON (gpu.Record) on
// standard output. It is the only program of this project that links C.
//
// A function that the driver's library lacks would end the process when it is called, so each is
// looked up first. When devices or the driver go away it says so and ends: functions of a library
// that was replaced stay bound to the old one, so only a new process can look anew.
package main
