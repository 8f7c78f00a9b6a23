package experiment

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strconv"
	"time"

	"github.com/optiinfra/performance-agent/pkg/load"
)

// Export a test: csv has one row a request, html is one page that needs nothing else.
func (c *Controller) Export(id, format string) (content []byte, contentType string, err error) {
	d, err := c.Document(id, true)
	if err != nil {
		return nil, "", err
	}
	switch format {
	case "csv":
		content, err = table(d)
		return content, "text/csv; charset=utf-8", err
	case "html":
		content, err = webPage(d)
		return content, "text/html; charset=utf-8", err
	}
	return nil, "", fmt.Errorf("%w: format %q: use csv or html", ErrInvalid, format)
}

// table has one row a request of every run whose report is there. Times are in seconds.
func table(d *load.Document) ([]byte, error) {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	rows := [][]string{{"run", "arm", "load", "due", "late", "ttft", "tpot", "e2e", "prompt_tokens", "tokens", "failed"}}
	for _, run := range d.Runs {
		if run.Report == nil {
			continue
		}
		c := run.Report.Requests
		for k := range c.Len() {
			tpot := ""
			if v, ok := c.TPOT(k); ok {
				tpot = strconv.FormatFloat(v, 'g', 6, 64)
			}
			rows = append(rows, []string{
				strconv.Itoa(run.Number), run.Arm, run.Load, inSeconds(c.DueUS[k]), inSeconds(c.LateUS[k]), inSeconds(c.TTFTUS[k]), tpot, inSeconds(c.E2EUS[k]),
				strconv.Itoa(c.Prompt[k]), strconv.Itoa(c.Tokens[k]), c.Failed[k],
			})
		}
	}
	if err := w.WriteAll(rows); err != nil {
		return nil, fmt.Errorf("write csv: %w", err)
	}
	return b.Bytes(), nil
}

func inSeconds(us int64) string {
	return strconv.FormatFloat((time.Duration(us) * time.Microsecond).Seconds(), 'f', 6, 64)
}
