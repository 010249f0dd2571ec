package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/thanos-io/objstore"
	"github.com/thanos-io/objstore/providers/filesystem"
	"github.com/thanos-io/thanos/pkg/block"
	"github.com/thanos-io/thanos/pkg/component"
	// Registers Thanos' codec: its messages point into the buffers they were read from, which gRPC's own would use again.
	_ "github.com/thanos-io/thanos/pkg/extgrpc"
	"github.com/thanos-io/thanos/pkg/info"
	"github.com/thanos-io/thanos/pkg/info/infopb"
	"github.com/thanos-io/thanos/pkg/model"
	"github.com/thanos-io/thanos/pkg/store"
	"github.com/thanos-io/thanos/pkg/store/labelpb"
	"github.com/thanos-io/thanos/pkg/store/storepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// serveStore runs Thanos' store gateway over a filesystem bucket until standard input closes.
func serveStore(directory string) error {
	bucket, err := filesystem.NewBucket(directory)
	if err != nil {
		return err
	}
	cache, err := os.MkdirTemp("", "peers-store-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)
	gateway, err := newGateway(objstore.WithNoopInstr(bucket), cache)
	if err != nil {
		return err
	}
	defer gateway.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32))
	storepb.RegisterStoreServer(server, gateway)
	infopb.RegisterInfoServer(server, info.NewInfoServer(component.Store.String(),
		info.WithLabelSetFunc(func() []labelpb.ZLabelSet { return gateway.LabelSet() }),
		info.WithStoreInfoFunc(func() (*infopb.StoreInfo, error) {
			mint, maxt := gateway.TimeRange()
			return &infopb.StoreInfo{MinTime: mint, MaxTime: maxt, SupportsSharding: true,
				SupportsWithoutReplicaLabels: true, TsdbInfos: gateway.TSDBInfos()}, nil
		}),
	))
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	fmt.Println(listener.Addr().String())
	return server.Serve(listener)
}

func newGateway(bucket objstore.InstrumentedBucketReader, cache string) (*store.BucketStore, error) {
	var mint, maxt model.TimeOrDurationValue
	if err := mint.Set("0000-01-01T00:00:00Z"); err != nil {
		return nil, err
	}
	if err := maxt.Set("9999-12-31T23:59:59Z"); err != nil {
		return nil, err
	}
	logger := log.NewNopLogger()
	fetcher, err := block.NewMetaFetcher(logger, 20, bucket, block.NewConcurrentLister(logger, bucket), "",
		prometheus.NewRegistry(), []block.MetadataFilter{block.NewTimePartitionMetaFilter(mint, maxt)})
	if err != nil {
		return nil, err
	}
	chunks, err := store.NewDefaultChunkBytesPool(2 << 30)
	if err != nil {
		return nil, err
	}
	gateway, err := store.NewBucketStore(bucket, fetcher, cache, store.NewChunksLimiterFactory(0),
		store.NewSeriesLimiterFactory(0), store.NewBytesLimiterFactory(0),
		store.NewGapBasedPartitioner(store.PartitionerMaxGapSize), 20, false,
		store.DefaultPostingOffsetInMemorySampling, false, false, time.Minute,
		store.WithChunkPool(chunks), store.WithFilterConfig(&store.FilterConfig{MinTime: mint, MaxTime: maxt}))
	if err != nil {
		return nil, err
	}
	return gateway, gateway.SyncBlocks(context.Background())
}

// connect dials plaintext; TLS if PEERS_TLS_CA names a file, and mutual TLS if PEERS_TLS_CERT and PEERS_TLS_KEY do, too.
func connect(address string) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if authority := os.Getenv("PEERS_TLS_CA"); authority != "" {
		var pairs []tls.Certificate
		if certificate := os.Getenv("PEERS_TLS_CERT"); certificate != "" {
			pair, err := tls.LoadX509KeyPair(certificate, os.Getenv("PEERS_TLS_KEY"))
			if err != nil {
				return nil, err
			}
			pairs = append(pairs, pair)
		}
		authorities, err := os.ReadFile(authority)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(authorities) {
			return nil, fmt.Errorf("no certificate in PEERS_TLS_CA")
		}
		transport = credentials.NewTLS(&tls.Config{Certificates: pairs, RootCAs: roots,
			ServerName: os.Getenv("PEERS_TLS_SERVER_NAME")})
	}
	return grpc.NewClient(address, grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
}

// request is a Series call. Matchers are written as {"type":"EQ|NEQ|RE|NRE","name":…,"value":…}.
type request struct {
	MinMs         int64    `json:"min_ms"`
	MaxMs         int64    `json:"max_ms"`
	Matchers      []match  `json:"matchers"`
	WithoutLabels []string `json:"without_replica_labels"`
	BatchSize     int64    `json:"batch_size"`
	SkipChunks    bool     `json:"skip_chunks"`
	Abort         bool     `json:"abort"`
	// CountOnly leaves the series out of the answer, undecoded, and counts them: for measuring.
	CountOnly bool `json:"count_only"`
}

type match struct {
	Type  string `json:"type"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

// point is a sample: its time, and its value as text, or a histogram as text.
type point struct {
	TimeMs    int64  `json:"t"`
	Value     string `json:"v,omitempty"`
	Histogram string `json:"h,omitempty"`
}

type series struct {
	Labels map[string]string `json:"labels"`
	Points []point           `json:"points"`
}

// counts says how much an answer was and how long it took, and its first frame.
type counts struct {
	Series  int     `json:"series"`
	Chunks  int     `json:"chunks"`
	Bytes   int     `json:"bytes"`
	FirstMs float64 `json:"first_ms"`
	TookMs  float64 `json:"took_ms"`
}

type stream struct {
	Series   []series `json:"series"`
	Counts   counts   `json:"counts"`
	Warnings []string `json:"warnings,omitempty"`
	Error    string   `json:"error,omitempty"`
}

func fetchSeries(address string) error {
	connection, err := connect(address)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := storepb.NewStoreClient(connection)
	return eachLine(func(r request) (stream, error) { return readStream(client, r) })
}

func readStream(client storepb.StoreClient, r request) (stream, error) {
	strategy := storepb.PartialResponseStrategy_WARN
	if r.Abort {
		strategy = storepb.PartialResponseStrategy_ABORT
	}
	call := &storepb.SeriesRequest{MinTime: r.MinMs, MaxTime: r.MaxMs, WithoutReplicaLabels: r.WithoutLabels,
		ResponseBatchSize: r.BatchSize, SkipChunks: r.SkipChunks, PartialResponseStrategy: strategy,
		PartialResponseDisabled: r.Abort, Aggregates: []storepb.Aggr{storepb.Aggr_RAW}}
	for _, m := range r.Matchers {
		kind, known := storepb.LabelMatcher_Type_value[m.Type]
		if !known {
			return stream{}, fmt.Errorf("matcher type %q", m.Type)
		}
		call.Matchers = append(call.Matchers, storepb.LabelMatcher{Type: storepb.LabelMatcher_Type(kind), Name: m.Name, Value: m.Value})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	started := time.Now()
	sinceStart := func() float64 { return float64(time.Since(started).Microseconds()) / 1000 }
	frames, err := client.Series(ctx, call)
	if err != nil {
		return stream{Error: err.Error()}, nil
	}
	found := stream{Series: []series{}}
	for {
		frame, err := frames.Recv()
		if found.Counts.FirstMs == 0 {
			found.Counts.FirstMs = sinceStart()
		}
		if err == io.EOF {
			found.Counts.TookMs = sinceStart()
			return found, nil
		}
		if err != nil {
			found.Error = err.Error()
			return found, nil
		}
		if warning := frame.GetWarning(); warning != "" {
			found.Warnings = append(found.Warnings, warning)
		}
		all := []*storepb.Series{}
		if one := frame.GetSeries(); one != nil {
			all = append(all, one)
		}
		if batch := frame.GetBatch(); batch != nil {
			all = append(all, batch.Series...)
		}
		for _, one := range all {
			found.Counts.Series++
			found.Counts.Chunks += len(one.Chunks)
			for _, chunk := range one.Chunks {
				found.Counts.Bytes += rawSize(chunk)
			}
			if r.CountOnly {
				continue
			}
			decoded, err := decode(one)
			if err != nil {
				return stream{}, err
			}
			found.Series = append(found.Series, decoded)
		}
	}
}

func rawSize(chunk storepb.AggrChunk) int {
	if chunk.Raw == nil {
		return 0
	}
	return len(chunk.Raw.Data)
}

func decode(one *storepb.Series) (series, error) {
	decoded := series{Labels: labelpb.ZLabelsToPromLabels(one.Labels).Map()}
	for _, chunk := range one.Chunks {
		if chunk.Raw == nil {
			return decoded, fmt.Errorf("series %v: a chunk without raw data", decoded.Labels)
		}
		raw, err := chunkenc.FromData(chunkenc.Encoding(chunk.Raw.Type)+1, chunk.Raw.Data)
		if err != nil {
			return decoded, err
		}
		samples := raw.Iterator(nil)
		for kind := samples.Next(); kind != chunkenc.ValNone; kind = samples.Next() {
			if kind == chunkenc.ValFloat {
				timeMs, value := samples.At()
				decoded.Points = append(decoded.Points, point{TimeMs: timeMs, Value: formatFloat(value)})
				continue
			}
			timeMs, histogram := samples.AtFloatHistogram(nil)
			text := fmt.Sprintf("%s schema:%d hint:%d", histogram, histogram.Schema, histogram.CounterResetHint)
			decoded.Points = append(decoded.Points, point{TimeMs: timeMs, Histogram: text})
		}
		if samples.Err() != nil {
			return decoded, samples.Err()
		}
	}
	return decoded, nil
}

func fetchInfo(address string) error {
	connection, err := connect(address)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	reply, err := infopb.NewInfoClient(connection).Info(ctx, &infopb.InfoRequest{})
	if err != nil {
		return err
	}
	sets := []map[string]string{}
	for _, set := range reply.LabelSets {
		sets = append(sets, labelpb.ZLabelsToPromLabels(set.Labels).Map())
	}
	summary := map[string]any{"component": reply.ComponentType, "label_sets": sets}
	if reply.Store != nil {
		summary["min_ms"], summary["max_ms"] = reply.Store.MinTime, reply.Store.MaxTime
		summary["tsdb_infos"] = len(reply.Store.TsdbInfos)
	}
	return json.NewEncoder(os.Stdout).Encode(summary)
}
