package main

import (
	"context"
	"errors"
	"flag"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/opentracing/opentracing-go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/thanos-io/thanos/pkg/component"
	"github.com/thanos-io/thanos/pkg/exemplars"
	"github.com/thanos-io/thanos/pkg/info"
	"github.com/thanos-io/thanos/pkg/info/infopb"
	"github.com/thanos-io/thanos/pkg/metadata"
	"github.com/thanos-io/thanos/pkg/prober"
	"github.com/thanos-io/thanos/pkg/promclient"
	"github.com/thanos-io/thanos/pkg/rules"
	grpcserver "github.com/thanos-io/thanos/pkg/server/grpc"
	"github.com/thanos-io/thanos/pkg/store"
	"github.com/thanos-io/thanos/pkg/store/labelpb"
	"github.com/thanos-io/thanos/pkg/targets"
	"github.com/thanos-io/thanos/pkg/tls"
)

// What Thanos takes where its flags do not say.
const (
	minimumVersion = "1.3"
	gracePeriod    = 2 * time.Minute
)

// serveSidecar puts Thanos' own parts together as its sidecar does (store, services, TLS and gRPC server; no shipper, no reloader), with the names of its
// flags, so that a test can start either. It serves until SIGTERM, and then lets open calls end.
func serveSidecar(arguments []string) error {
	flags := flag.NewFlagSet("sidecar", flag.ContinueOnError)
	address := flags.String("prometheus.url", "", "")
	grpcAddress := flags.String("grpc-address", "", "")
	httpAddress := flags.String("http-address", "", "")
	certificate := flags.String("grpc-server-tls-cert", "", "")
	key := flags.String("grpc-server-tls-key", "", "")
	authorities := flags.String("grpc-server-tls-client-ca", "", "")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	base, err := url.Parse(*address)
	if err != nil {
		return err
	}
	client, ctx := promclient.NewDefaultClient(), context.Background()
	external, err := client.ExternalLabels(ctx, base)
	if err != nil {
		return err
	}
	version, err := client.BuildVersion(ctx, base)
	if err != nil {
		return err
	}
	lowest, err := client.LowestTimestamp(ctx, base)
	if err != nil {
		return err
	}
	current := func() labels.Labels { return external }
	times := func() (int64, int64) { return lowest, math.MaxInt64 }
	logger, registry := log.NewLogfmtLogger(os.Stderr), prometheus.NewRegistry()
	held, err := store.NewPrometheusStore(logger, registry, client, base, component.Sidecar, current, times,
		func() string { return version })
	if err != nil {
		return err
	}
	config, err := tls.NewServerConfig(logger, *certificate, *key, *authorities, minimumVersion)
	if err != nil {
		return err
	}
	described := info.NewInfoServer(component.Sidecar.String(),
		info.WithLabelSetFunc(func() []labelpb.ZLabelSet { return held.LabelSet() }),
		info.WithStoreInfoFunc(func() (*infopb.StoreInfo, error) {
			mint, maxt := times()
			return &infopb.StoreInfo{MinTime: mint, MaxTime: maxt, SupportsSharding: true,
				SupportsWithoutReplicaLabels: true, TsdbInfos: held.TSDBInfos()}, nil
		}),
		info.WithExemplarsInfoFunc(), info.WithRulesInfoFunc(), info.WithTargetsInfoFunc(), info.WithMetricMetadataInfoFunc(),
	)
	probe := prober.NewGRPC()
	server := grpcserver.New(logger, registry, opentracing.NoopTracer{}, nil, nil, component.Sidecar, probe,
		grpcserver.WithServer(store.RegisterStoreServer(held, logger)),
		grpcserver.WithServer(rules.RegisterRulesServer(rules.NewPrometheus(base, client, current))),
		grpcserver.WithServer(targets.RegisterTargetsServer(targets.NewPrometheus(base, client, current))),
		grpcserver.WithServer(metadata.RegisterMetadataServer(metadata.NewPrometheus(base, client))),
		grpcserver.WithServer(exemplars.RegisterExemplarsServer(exemplars.NewPrometheus(base, client, current))),
		grpcserver.WithServer(info.RegisterInfoServer(described)),
		grpcserver.WithListen(*grpcAddress),
		grpcserver.WithGracePeriod(gracePeriod),
		grpcserver.WithTLSConfig(config),
	)
	ready := http.NewServeMux()
	ready.HandleFunc("/-/ready", func(http.ResponseWriter, *http.Request) {})
	failed := make(chan error, 2)
	go func() { failed <- http.ListenAndServe(*httpAddress, ready) }()
	go func() { failed <- server.ListenAndServe() }()
	probe.Ready()
	asked, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	select {
	case err := <-failed:
		return err
	case <-asked.Done():
		probe.NotReady(errors.New("asked to end"))
		server.Shutdown(nil)
		return nil
	}
}
