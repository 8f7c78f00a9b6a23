// Package openslo reads and writes objectives as OpenSLO v1 documents (github.com/OpenSLO/OpenSLO):
// strictly, so that nothing that somebody wrote down is silently left out. A document that says what
// this product cannot do is refused with what to do instead, and all faults are told together.
//
// Indicators come from two kinds of metric source. PerformanceAgent names measurements as windows do;
// Prometheus holds PromQL, which the control plane's own history answers.
package openslo

// Version of the documents.
const Version = "openslo/v1"

// Kinds of documents.
const (
	kindSLO             = "SLO"
	kindSLI             = "SLI"
	kindAlertPolicy     = "AlertPolicy"
	kindAlertCondition  = "AlertCondition"
	kindAlertTarget     = "AlertNotificationTarget"
	kindDataSource      = "DataSource"
	kindService         = "Service"
	methodOccurrences   = "Occurrences"
	methodTimeslices    = "Timeslices"
	sourceOurs          = "PerformanceAgent"
	sourcePrometheus    = "Prometheus"
	annotationAdvisory  = "performance-agent/advisory"
	metricFinished      = "requests_finished"
	metricFailed        = "requests_failed"
	metricRequests      = "requests"
	metricWithinBounds  = "requests_within_bounds"
	conditionBurnRate   = "burnrate"
	calendarOrRatioHint = "use Occurrences or Timeslices"
)

type metadata struct {
	Name        string            `yaml:"name"`
	DisplayName string            `yaml:"displayName,omitempty"`
	Labels      any               `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// object is a document of kind K.
type object[S any] struct {
	APIVersion string   `yaml:"apiVersion,omitempty"`
	Kind       string   `yaml:"kind,omitempty"`
	Metadata   metadata `yaml:"metadata"`
	Spec       S        `yaml:"spec"`
}

type sloSpec struct {
	Description     string           `yaml:"description,omitempty"`
	Service         string           `yaml:"service"`
	Indicator       *object[sliSpec] `yaml:"indicator,omitempty"`
	IndicatorRef    string           `yaml:"indicatorRef,omitempty"`
	TimeWindow      []timeWindow     `yaml:"timeWindow,omitempty"`
	BudgetingMethod string           `yaml:"budgetingMethod"`
	Objectives      []objective      `yaml:"objectives"`
	AlertPolicies   []policyItem     `yaml:"alertPolicies,omitempty"`
}

type timeWindow struct {
	Duration  string    `yaml:"duration"`
	IsRolling bool      `yaml:"isRolling"`
	Calendar  *calendar `yaml:"calendar,omitempty"`
}

type calendar struct {
	StartTime string `yaml:"startTime"`
	TimeZone  string `yaml:"timeZone"`
}

type objective struct {
	DisplayName     string   `yaml:"displayName,omitempty"`
	Op              string   `yaml:"op,omitempty"`
	Value           *float64 `yaml:"value,omitempty"`
	Target          *float64 `yaml:"target,omitempty"`
	TargetPercent   *float64 `yaml:"targetPercent,omitempty"`
	TimeSliceTarget *float64 `yaml:"timeSliceTarget,omitempty"`
	// TimeSliceWindow is a number of minutes or a duration.
	TimeSliceWindow any `yaml:"timeSliceWindow,omitempty"`
}

type sliSpec struct {
	Description     string       `yaml:"description,omitempty"`
	ThresholdMetric *metric      `yaml:"thresholdMetric,omitempty"`
	RatioMetric     *ratioMetric `yaml:"ratioMetric,omitempty"`
}

type ratioMetric struct {
	Counter bool    `yaml:"counter"`
	Good    *metric `yaml:"good,omitempty"`
	Bad     *metric `yaml:"bad,omitempty"`
	Total   *metric `yaml:"total,omitempty"`
	RawType string  `yaml:"rawType,omitempty"`
	Raw     *metric `yaml:"raw,omitempty"`
}

type metric struct {
	MetricSource metricSource `yaml:"metricSource"`
}

type metricSource struct {
	MetricSourceRef string `yaml:"metricSourceRef,omitempty"`
	Type            string `yaml:"type,omitempty"`
	// Spec is what the type of source asks for: ourSource or prometheusSource.
	Spec any `yaml:"spec"`
}

// ourSource names a measurement of a group's or a model's engines.
type ourSource struct {
	Metric      string  `yaml:"metric"`
	Group       string  `yaml:"group,omitempty"`
	Model       string  `yaml:"model,omitempty"`
	TTFTSeconds float64 `yaml:"ttftSeconds,omitempty"`
	TPOTSeconds float64 `yaml:"tpotSeconds,omitempty"`
}

type prometheusSource struct {
	Query string `yaml:"query"`
	// Group that the query is about, for the error-budget policy; the service where it is left out.
	Group string `yaml:"group,omitempty"`
	Model string `yaml:"model,omitempty"`
}

// policyItem is an alert policy in place, or the name of one.
type policyItem struct {
	AlertPolicyRef string      `yaml:"alertPolicyRef,omitempty"`
	APIVersion     string      `yaml:"apiVersion,omitempty"`
	Kind           string      `yaml:"kind,omitempty"`
	Metadata       *metadata   `yaml:"metadata,omitempty"`
	Spec           *policySpec `yaml:"spec,omitempty"`
}

type policySpec struct {
	Description        string          `yaml:"description,omitempty"`
	AlertWhenNoData    bool            `yaml:"alertWhenNoData,omitempty"`
	AlertWhenResolved  bool            `yaml:"alertWhenResolved,omitempty"`
	AlertWhenBreaching bool            `yaml:"alertWhenBreaching,omitempty"`
	Conditions         []conditionItem `yaml:"conditions"`
	NotificationTarget []targetItem    `yaml:"notificationTargets,omitempty"`
}

type conditionItem struct {
	ConditionRef string         `yaml:"conditionRef,omitempty"`
	APIVersion   string         `yaml:"apiVersion,omitempty"`
	Kind         string         `yaml:"kind,omitempty"`
	Metadata     *metadata      `yaml:"metadata,omitempty"`
	Spec         *conditionSpec `yaml:"spec,omitempty"`
}

type conditionSpec struct {
	Description string    `yaml:"description,omitempty"`
	Severity    string    `yaml:"severity"`
	Condition   condition `yaml:"condition"`
}

type condition struct {
	Kind           string   `yaml:"kind,omitempty"`
	Op             string   `yaml:"op,omitempty"`
	Threshold      *float64 `yaml:"threshold"`
	LookbackWindow string   `yaml:"lookbackWindow"`
	AlertAfter     string   `yaml:"alertAfter,omitempty"`
}

type targetItem struct {
	TargetRef  string      `yaml:"targetRef,omitempty"`
	APIVersion string      `yaml:"apiVersion,omitempty"`
	Kind       string      `yaml:"kind,omitempty"`
	Metadata   *metadata   `yaml:"metadata,omitempty"`
	Spec       *targetSpec `yaml:"spec,omitempty"`
}

type targetSpec struct {
	Description string `yaml:"description,omitempty"`
	Target      string `yaml:"target"`
}

type dataSourceSpec struct {
	Description       string `yaml:"description,omitempty"`
	Type              string `yaml:"type"`
	ConnectionDetails any    `yaml:"connectionDetails,omitempty"`
}

type serviceSpec struct {
	Description string `yaml:"description,omitempty"`
}
