package engine

import enginev1 "github.com/optiinfra/performance-agent/proto/engine/v1"

// Short names for the wire's enumerations, so that a knob table reads as a table.
const (
	Int    = enginev1.KnobType_KNOB_TYPE_INT
	Float  = enginev1.KnobType_KNOB_TYPE_FLOAT
	Bool   = enginev1.KnobType_KNOB_TYPE_BOOL
	Enum   = enginev1.KnobType_KNOB_TYPE_ENUM
	String = enginev1.KnobType_KNOB_TYPE_STRING

	KVCache      = enginev1.KnobFamily_KNOB_FAMILY_KV_CACHE
	Batching     = enginev1.KnobFamily_KNOB_FAMILY_BATCHING
	Quantization = enginev1.KnobFamily_KNOB_FAMILY_QUANTIZATION
	Parallelism  = enginev1.KnobFamily_KNOB_FAMILY_PARALLELISM
	Speculation  = enginev1.KnobFamily_KNOB_FAMILY_SPECULATION
	Graphs       = enginev1.KnobFamily_KNOB_FAMILY_GRAPHS
	Limits       = enginev1.KnobFamily_KNOB_FAMILY_LIMITS

	TTFT       = enginev1.Effect_EFFECT_TTFT
	TPOT       = enginev1.Effect_EFFECT_TPOT
	Throughput = enginev1.Effect_EFFECT_THROUGHPUT
	Memory     = enginev1.Effect_EFFECT_MEMORY
	StartTime  = enginev1.Effect_EFFECT_START_TIME

	LessOrEqual    = enginev1.Comparison_COMPARISON_LESS_OR_EQUAL
	GreaterOrEqual = enginev1.Comparison_COMPARISON_GREATER_OR_EQUAL
	Divides        = enginev1.Comparison_COMPARISON_DIVIDES
	Excludes       = enginev1.Comparison_COMPARISON_EXCLUDES

	Gauge           = enginev1.SeriesKind_SERIES_KIND_GAUGE
	Counter         = enginev1.SeriesKind_SERIES_KIND_COUNTER
	HistogramSeries = enginev1.SeriesKind_SERIES_KIND_HISTOGRAM

	SumPart   = enginev1.SeriesPart_SERIES_PART_SUM
	CountPart = enginev1.SeriesPart_SERIES_PART_COUNT
	LabelPart = enginev1.SeriesPart_SERIES_PART_LABEL

	LabelItemsPart = enginev1.SeriesPart_SERIES_PART_LABEL_ITEMS

	Sum  = enginev1.Combine_COMBINE_SUM
	Mean = enginev1.Combine_COMBINE_MEAN
	Max  = enginev1.Combine_COMBINE_MAX

	AfterFirstRequest = enginev1.Appearance_APPEARANCE_FIRST_REQUEST
	AfterFirstEvent   = enginev1.Appearance_APPEARANCE_FIRST_EVENT

	OutOfMemory = enginev1.FailureKind_FAILURE_KIND_OUT_OF_MEMORY
	BadFlag     = enginev1.FailureKind_FAILURE_KIND_BAD_FLAG
	BadValue    = enginev1.FailureKind_FAILURE_KIND_BAD_VALUE
	KVTooSmall  = enginev1.FailureKind_FAILURE_KIND_KV_TOO_SMALL
	EngineDead  = enginev1.FailureKind_FAILURE_KIND_ENGINE_DEAD
	PortTaken   = enginev1.FailureKind_FAILURE_KIND_PORT_TAKEN
	ModelFault  = enginev1.FailureKind_FAILURE_KIND_MODEL
)

// SourceArgv is Description.version_source when the command line names the engine and the engine
// itself has not said its version yet.
const SourceArgv = "argv"

// Recognized reports whether a description was made of something that showed to be the adapter's
// engine. An adapter leaves version_source empty when neither the command line nor the server did.
func Recognized(d *Description) bool { return d.GetVersionSource() != "" }

// seriesKind is the wire's kind of a series.
type seriesKind = enginev1.SeriesKind
