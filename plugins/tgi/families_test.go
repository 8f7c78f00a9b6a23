package main

import (
	"testing"

	"github.com/optiinfra/performance-agent/pkg/engine/enginetest"
)

// leftOut are the series that are not read.
var leftOut = []enginetest.Unmanaged{
	{Pattern: "tgi_request_count", Why: "counts some requests more than once; those that ended are counted"},
	{Pattern: "tgi_batch_inference_(?:success|failure)", Why: "the count of steps is read, and failures by request"},
	{Pattern: "tgi_batch_(?:concat|concat_duration|filter_duration|decode_duration|forward_duration)", Why: "parts of a step, of which the whole is read"},
	{Pattern: "tgi_request_max_new_tokens", Why: "a hundred lines for what the reserved tokens hold"},
	{Pattern: "tgi_batch_next_size", Why: "a thousand lines for how many requests join at once, which the running batch tells"},
}

// TestFamilies: every family that a real build exports, and those that appear with failures and in other
// builds, is read or left out for a reason.
func TestFamilies(t *testing.T) {
	enginetest.Families(t, adapter{}, enginetest.FamiliesOptions{
		Version: "3.3.6", File: "testdata/families-3.3.6.txt", Also: "testdata/series.txt", Report: "testdata/families-3.3.6.golden",
		LeftOut: leftOut,
	})
}

// TestDocument: the document says what is read.
func TestDocument(t *testing.T) {
	enginetest.SignalTable(t, adapter{}, "../../docs/METRICS.md", "tgi", nil, leftOut)
}
