package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"
)

// function is one function that Prometheus' parser knows.
type function struct {
	Name         string   `json:"name"`
	Arguments    []string `json:"arguments"`
	Variadic     int      `json:"variadic"`
	Returns      string   `json:"returns"`
	Experimental bool     `json:"experimental"`
}

// aggregation is one of its aggregations.
type aggregation struct {
	Name         string `json:"name"`
	Experimental bool   `json:"experimental"`
}

// printLanguage prints all functions and aggregations in one line, sorted by name.
func printLanguage() error {
	functions := make([]function, 0, len(parser.Functions))
	for _, known := range parser.Functions {
		arguments := make([]string, 0, len(known.ArgTypes))
		for _, argument := range known.ArgTypes {
			arguments = append(arguments, string(argument))
		}
		functions = append(functions, function{
			known.Name, arguments, known.Variadic, string(known.ReturnType), known.Experimental,
		})
	}
	slices.SortFunc(functions, func(a, b function) int { return strings.Compare(a.Name, b.Name) })
	var aggregations []aggregation
	for item, name := range parser.ItemTypeStr {
		if item.IsAggregator() {
			aggregations = append(aggregations, aggregation{name, item.IsExperimentalAggregator()})
		}
	}
	slices.SortFunc(aggregations, func(a, b aggregation) int { return strings.Compare(a.Name, b.Name) })
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"functions": functions, "aggregations": aggregations})
}
