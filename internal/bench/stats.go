package main

import (
	"math"
	"slices"
)

// median of values, which must not be empty.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// ratio is how often one is the other, with the interval that holds the truth in 95 of 100 cases.
type ratio struct{ Low, Mean, High float64 }

// ratioOf compares runs of the same rounds: the geometric mean of their ratios, with Student's interval for the mean of
// the logarithms. From one round there is no interval.
func ratioOf(a, b []float64) ratio {
	n := float64(len(a))
	logs := make([]float64, len(a))
	mean := 0.0
	for i := range a {
		logs[i] = math.Log(a[i] / b[i])
		mean += logs[i] / n
	}
	if len(a) < 2 {
		return ratio{math.NaN(), math.Exp(mean), math.NaN()}
	}
	variance := 0.0
	for _, l := range logs {
		variance += (l - mean) * (l - mean) / (n - 1)
	}
	half := student(len(a)-1) * math.Sqrt(variance/n)
	return ratio{math.Exp(mean - half), math.Exp(mean), math.Exp(mean + half)}
}

// student is the 97.5 % quantile of Student's distribution.
func student(freedom int) float64 {
	table := []float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131}
	if freedom <= len(table) {
		return table[freedom-1]
	}
	return 2.1 // near enough above 15 rounds
}
