package main

import (
	"encoding/json"
	"math"
	"strconv"

	jsoniter "github.com/json-iterator/go"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/jsonutil"
)

// mostAnnotations is how many warnings and infos the HTTP API gives of each kind.
const mostAnnotations = 10

func failed(status int, kind string, err error) (answer, error) {
	written, marshalErr := json.Marshal(map[string]string{"status": "error", "errorType": kind, "error": err.Error()})
	return answer{Status: status, Response: written}, marshalErr
}

type envelope struct {
	Status string `json:"status"`
	Data   struct {
		ResultType string          `json:"resultType"`
		Result     json.RawMessage `json:"result"`
	} `json:"data"`
	Warnings []string `json:"warnings,omitempty"`
	Infos    []string `json:"infos,omitempty"`
}

// success writes a result as the HTTP API does, numbers and histograms by Prometheus' own functions.
func success(query string, result *promql.Result) (json.RawMessage, error) {
	stream := jsoniter.NewStream(jsoniter.ConfigDefault, nil, 4096)
	switch value := result.Value.(type) {
	case promql.Vector:
		writeList(stream, len(value), func(i int) {
			sample := value[i]
			writeMetric(stream, sample.Metric.Map())
			if sample.H != nil {
				stream.WriteRaw(`,"histogram":`)
				writeHistogram(stream, sample.T, sample.H)
			} else {
				stream.WriteRaw(`,"value":`)
				writeFloat(stream, sample.T, sample.F)
			}
			stream.WriteObjectEnd()
		})
	case promql.Matrix:
		writeList(stream, len(value), func(i int) {
			one := value[i]
			writeMetric(stream, one.Metric.Map())
			if len(one.Floats) > 0 {
				stream.WriteRaw(`,"values":`)
				writeList(stream, len(one.Floats), func(i int) { writeFloat(stream, one.Floats[i].T, one.Floats[i].F) })
			}
			if len(one.Histograms) > 0 {
				stream.WriteRaw(`,"histograms":`)
				writeList(stream, len(one.Histograms), func(i int) { writeHistogram(stream, one.Histograms[i].T, one.Histograms[i].H) })
			}
			stream.WriteObjectEnd()
		})
	case promql.Scalar:
		writeFloat(stream, value.T, value.V)
	case promql.String:
		stream.WriteArrayStart()
		jsonutil.MarshalTimestamp(value.T, stream)
		stream.WriteMore()
		stream.WriteString(value.V)
		stream.WriteArrayEnd()
	}
	if stream.Error != nil {
		return nil, stream.Error
	}
	written := envelope{Status: "success"}
	written.Data.ResultType = string(result.Value.Type())
	written.Data.Result = stream.Buffer()
	written.Warnings, written.Infos = result.Warnings.AsStrings(query, mostAnnotations, mostAnnotations)
	return json.Marshal(written)
}

func writeList(stream *jsoniter.Stream, length int, write func(i int)) {
	stream.WriteArrayStart()
	for i := range length {
		if i > 0 {
			stream.WriteMore()
		}
		write(i)
	}
	stream.WriteArrayEnd()
}

// writeMetric begins the object of a series; the caller ends it.
func writeMetric(stream *jsoniter.Stream, labels map[string]string) {
	stream.WriteObjectStart()
	stream.WriteObjectField("metric")
	stream.WriteVal(labels)
}

func writeFloat(stream *jsoniter.Stream, timeMs int64, value float64) {
	stream.WriteArrayStart()
	jsonutil.MarshalTimestamp(timeMs, stream)
	stream.WriteMore()
	jsonutil.MarshalFloat(value, stream)
	stream.WriteArrayEnd()
}

func writeHistogram(stream *jsoniter.Stream, timeMs int64, value *histogram.FloatHistogram) {
	stream.WriteArrayStart()
	jsonutil.MarshalTimestamp(timeMs, stream)
	stream.WriteMore()
	jsonutil.MarshalHistogram(value, stream)
	stream.WriteArrayEnd()
}

// formatFloat writes a value so that equal texts are equal bits; the payload of a NaN (a stale marker) is told, too.
func formatFloat(value float64) string {
	if math.IsNaN(value) {
		return "NaN(" + strconv.FormatUint(math.Float64bits(value), 16) + ")"
	}
	return strconv.FormatFloat(value, 'g', -1, 64)
}
