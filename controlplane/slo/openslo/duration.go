package openslo

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// units of OpenSLO's shorthand that are of one length.
var units = []struct {
	letter byte
	length time.Duration
}{{'w', 7 * 24 * time.Hour}, {'d', 24 * time.Hour}, {'h', time.Hour}, {'m', time.Minute}}

// parseDuration reads OpenSLO's shorthand: a whole number and one letter.
func parseDuration(text string) (time.Duration, error) {
	if len(text) < 2 {
		return 0, fmt.Errorf("duration %q: use a number and a letter, such as 5m, 1h or 30d", text)
	}
	n, err := strconv.Atoi(text[:len(text)-1])
	letter := text[len(text)-1]
	for _, u := range units {
		if u.letter == letter && err == nil && n >= 0 && int64(n) <= math.MaxInt64/int64(u.length) {
			return time.Duration(n) * u.length, nil
		}
	}
	if err == nil && (letter == 'M' || letter == 'Q' || letter == 'Y') {
		return 0, fmt.Errorf("duration %q: months, quarters and years are not all of one length; use days, such as 30d", text)
	}
	return 0, fmt.Errorf("duration %q: use a whole number and m, h, d or w, such as 5m, 1h or 30d", text)
}

// formatDuration writes OpenSLO's shorthand; d is a whole number of minutes.
func formatDuration(d time.Duration) string {
	for _, u := range units[1:] { // weeks are days
		if d%u.length == 0 && d != 0 {
			return fmt.Sprintf("%d%c", d/u.length, u.letter)
		}
	}
	return fmt.Sprintf("%dm", d/time.Minute)
}

// sliceWindow reads a number of minutes or a duration.
func sliceWindow(v any) (time.Duration, error) {
	minutes := 0.0
	switch x := v.(type) {
	case string:
		if d, err := parseDuration(x); err == nil {
			return d, nil
		}
		n, err := strconv.ParseFloat(x, 64)
		if err != nil {
			return 0, fmt.Errorf("timeSliceWindow %q: use a number of minutes, or a duration such as 1m", x)
		}
		minutes = n
	case uint64:
		minutes = float64(x)
	case int64:
		minutes = float64(x)
	case float64:
		minutes = x
	default:
		return 0, fmt.Errorf("timeSliceWindow %v: use a number of minutes, or a duration such as 1m", v)
	}
	if !(minutes > 0 && minutes <= 60) {
		return 0, fmt.Errorf("timeSliceWindow %v: use a number of minutes above 0, at most 60", v)
	}
	return time.Duration(math.Round(minutes*60_000)) * time.Millisecond, nil
}
