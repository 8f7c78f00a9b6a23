package perfmodel

import (
	"math"
	"slices"
)

// Rounds of the reweighting, sweeps of the solver, and the relative error below which all errors weigh
// alike, as of design: weight 1/√max(error, .02).
const (
	fitRounds  = 6
	fitSweeps  = 2000
	errorFloor = .02
)

// LeastRelative finds the non-negative coefficients θ for which rows·θ comes closest to y in relative
// error, robustly: L1 by iterative reweighting, each round solved by projected coordinate descent on the
// normal equations. A row is as long as θ; every y is above zero. The start carries a weight of so many
// observations against zero change of each coefficient; 0 asks the data alone, and a coefficient that no
// row exercises then stays at its start.
func LeastRelative(rows [][]float64, y, start []float64, weight float64) []float64 {
	theta := slices.Clone(start)
	if len(rows) == 0 {
		return theta
	}
	spread := relativeSquare(rows, y)
	for range fitRounds {
		a, q := normalEquations(rows, y, theta)
		for i := range theta {
			a[i][i] += weight * spread[i]
			q[i] += weight * spread[i] * start[i]
		}
		descend(a, q, theta)
	}
	return theta
}

// relativeSquare is the mean square of each relative feature, the unit in which a start is weighed.
func relativeSquare(rows [][]float64, y []float64) []float64 {
	sum := make([]float64, len(rows[0]))
	for r, row := range rows {
		for i, x := range row {
			sum[i] += x * x / (y[r] * y[r]) / float64(len(rows))
		}
	}
	return sum
}

// normalEquations of the relative errors, each weighed by how far off it was before.
func normalEquations(rows [][]float64, y, theta []float64) (a [][]float64, q []float64) {
	n := len(theta)
	a, q = make([][]float64, n), make([]float64, n)
	for i := range a {
		a[i] = make([]float64, n)
	}
	for r, row := range rows {
		miss := math.Abs(dot(row, theta)/y[r] - 1)
		w := 1 / (max(miss, errorFloor) * y[r] * y[r])
		for i, x := range row {
			if x == 0 {
				continue
			}
			for j, z := range row {
				a[i][j] += w * x * z
			}
			q[i] += w * x * y[r]
		}
	}
	return a, q
}

// descend minimises the quadratic form over non-negative theta, in place.
func descend(a [][]float64, q, theta []float64) {
	for range fitSweeps {
		moved := 0.
		for i := range theta {
			if a[i][i] <= 0 {
				continue
			}
			v := max(theta[i]+(q[i]-dot(a[i], theta))/a[i][i], 0)
			moved = max(moved, math.Abs(v-theta[i])/max(math.Abs(v), 1e-12))
			theta[i] = v
		}
		if moved < 1e-9 {
			return
		}
	}
}

func dot(a, b []float64) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}
