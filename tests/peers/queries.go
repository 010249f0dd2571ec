package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/thanos-io/thanos/pkg/component"
	"github.com/thanos-io/thanos/pkg/dedup"
	"github.com/thanos-io/thanos/pkg/query"
	"github.com/thanos-io/thanos/pkg/store"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// question is one query; instant if Step is zero. Times are milliseconds.
type question struct {
	Query         string   `json:"query"`
	StartMs       int64    `json:"start_ms"`
	EndMs         int64    `json:"end_ms"`
	StepMs        int64    `json:"step_ms"`
	Dedup         bool     `json:"dedup"`
	ReplicaLabels []string `json:"replica_labels"`
}

// answer is what Prometheus' HTTP API would say: the status, and the response as it writes it.
type answer struct {
	Status   int             `json:"status"`
	Response json.RawMessage `json:"response"`
	// TookMs is how long the engine ran, before the response was written.
	TookMs float64 `json:"took_ms"`
}

func newEngine() *promql.Engine {
	parser.EnableExperimentalFunctions = true
	parser.ExperimentalDurationExpr = true
	parser.EnableExtendedRangeSelectors = true
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples:               500_000_000,
		Timeout:                  5 * time.Minute,
		LookbackDelta:            5 * time.Minute,
		EnableAtModifier:         true,
		EnableNegativeOffset:     true,
		EnablePerStepStats:       false,
		NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
	})
}

func evaluate(engine *promql.Engine, source storage.Queryable, q question) (answer, error) {
	ctx := context.Background()
	started := time.Now()
	var prepared promql.Query
	var err error
	if q.StepMs == 0 {
		prepared, err = engine.NewInstantQuery(ctx, source, nil, q.Query, time.UnixMilli(q.StartMs))
	} else {
		step := time.Duration(q.StepMs) * time.Millisecond
		prepared, err = engine.NewRangeQuery(ctx, source, nil, q.Query, time.UnixMilli(q.StartMs), time.UnixMilli(q.EndMs), step)
	}
	if err != nil {
		return failed(http.StatusBadRequest, "bad_data", fmt.Errorf(`invalid parameter "query": %w`, err))
	}
	defer prepared.Close()
	result := prepared.Exec(ctx)
	tookMs := float64(time.Since(started).Microseconds()) / 1000
	if result.Err != nil {
		return failed(http.StatusUnprocessableEntity, "execution", result.Err)
	}
	written, err := success(q.Query, result)
	return answer{Status: http.StatusOK, Response: written, TookMs: tookMs}, err
}

// blocks joins block directories into one queryable.
type blocks []*tsdb.Block

func (b blocks) Querier(mint, maxt int64) (storage.Querier, error) {
	var queriers []storage.Querier
	for _, block := range b {
		if !block.OverlapsClosedInterval(mint, maxt) {
			continue
		}
		querier, err := tsdb.NewBlockQuerier(block, mint, maxt)
		if err != nil {
			return nil, err
		}
		queriers = append(queriers, querier)
	}
	return storage.NewMergeQuerier(queriers, nil, storage.ChainedSeriesMerge), nil
}

func answerThroughPrometheus(directories []string) error {
	var source blocks
	directories, err := blockDirectories(directories)
	if err != nil {
		return err
	}
	for _, directory := range directories {
		block, err := tsdb.OpenBlock(nil, directory, chunkenc.NewPool(), nil)
		if err != nil {
			return err
		}
		defer block.Close()
		source = append(source, block)
	}
	engine := newEngine()
	return eachLine(func(q question) (answer, error) { return evaluate(engine, source, q) })
}

// answerThroughThanos runs Thanos' whole query path over StoreAPI endpoints: Info, proxy, dedup, engine.
func answerThroughThanos(addresses []string) error {
	dial := grpc.WithTransportCredentials(insecure.NewCredentials())
	var specs []*query.GRPCEndpointSpec
	for _, address := range addresses {
		specs = append(specs, query.NewGRPCEndpointSpec(address, true, dial,
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32))))
	}
	logger := log.NewNopLogger()
	if os.Getenv("PEERS_LOG") != "" {
		logger = log.NewLogfmtLogger(os.Stderr)
	}
	registry := prometheus.NewRegistry()
	endpoints := query.NewEndpointSet(time.Now, logger, registry, func() []*query.GRPCEndpointSpec { return specs },
		time.Minute, 5*time.Second, 5*time.Minute)
	defer endpoints.Close()
	endpoints.Update(context.Background())
	if clients := endpoints.GetStoreClients(); len(clients) != len(addresses) {
		return errors.New("not every endpoint answered Info as a store")
	}
	proxy := store.NewProxyStore(logger, registry, endpoints.GetStoreClients, component.Query, labels.EmptyLabels(),
		0, store.EagerRetrieval)
	create := query.NewQueryableCreator(logger, registry, proxy, 4, 5*time.Minute, dedup.AlgorithmPenalty, 64)
	engine := newEngine()
	return eachLine(func(q question) (answer, error) {
		source := create(q.Dedup, q.ReplicaLabels, nil, 0, false, false, nil, query.NoopSeriesStatsReporter)
		return evaluate(engine, source, q)
	})
}

// blockDirectories replaces each bucket among the paths by the block directories in it.
func blockDirectories(paths []string) ([]string, error) {
	var found []string
	for _, path := range paths {
		if _, err := os.Stat(filepath.Join(path, "meta.json")); err == nil {
			found = append(found, path)
			continue
		}
		metas, err := filepath.Glob(filepath.Join(path, "*", "meta.json"))
		if err != nil {
			return nil, err
		}
		for _, meta := range metas {
			found = append(found, filepath.Dir(meta))
		}
	}
	return found, nil
}
