package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"

	"github.com/go-kit/log"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/thanos-io/thanos/pkg/exemplars"
	"github.com/thanos-io/thanos/pkg/exemplars/exemplarspb"
	"github.com/thanos-io/thanos/pkg/info"
	"github.com/thanos-io/thanos/pkg/info/infopb"
	"github.com/thanos-io/thanos/pkg/metadata"
	"github.com/thanos-io/thanos/pkg/metadata/metadatapb"
	"github.com/thanos-io/thanos/pkg/promclient"
	"github.com/thanos-io/thanos/pkg/rules"
	"github.com/thanos-io/thanos/pkg/rules/rulespb"
	"github.com/thanos-io/thanos/pkg/status"
	"github.com/thanos-io/thanos/pkg/status/statuspb"
	"github.com/thanos-io/thanos/pkg/store/labelpb"
	"github.com/thanos-io/thanos/pkg/targets"
	"github.com/thanos-io/thanos/pkg/targets/targetspb"
	"google.golang.org/grpc"
)

// serveSide runs the services that Thanos' sidecar has beside its store, over the Prometheus at an address, until standard input closes.
// External labels are written as a JSON object.
func serveSide(address, externalLabels string) error {
	var pairs map[string]string
	if err := json.Unmarshal([]byte(externalLabels), &pairs); err != nil {
		return fmt.Errorf("external labels: %w", err)
	}
	external := labels.FromMap(pairs)
	base, err := url.Parse(address)
	if err != nil {
		return err
	}
	client := promclient.NewDefaultClient()
	current := func() labels.Labels { return external }
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	metadatapb.RegisterMetadataServer(server, metadata.NewPrometheus(base, client))
	rulespb.RegisterRulesServer(server, rules.NewPrometheus(base, client, current))
	targetspb.RegisterTargetsServer(server, targets.NewPrometheus(base, client, current))
	exemplarspb.RegisterExemplarsServer(server, exemplars.NewPrometheus(base, client, current))
	infopb.RegisterInfoServer(server, info.NewInfoServer("sidecar",
		info.WithLabelSetFunc(func() []labelpb.ZLabelSet {
			return []labelpb.ZLabelSet{{Labels: labelpb.ZLabelsFromPromLabels(external)}}
		}),
		info.WithMetricMetadataInfoFunc(), info.WithRulesInfoFunc(), info.WithTargetsInfoFunc(), info.WithExemplarsInfoFunc(),
	))
	go func() {
		_, _ = io.Copy(io.Discard, bufio.NewReader(os.Stdin))
		server.Stop()
	}()
	fmt.Println(listener.Addr().String())
	return server.Serve(listener)
}

// sideQuestion asks one of the services of all endpoints, as Thanos' querier does for its HTTP API.
type sideQuestion struct {
	// metadata, rules, targets, exemplars or status
	Service       string   `json:"service"`
	Query         string   `json:"query"`
	Limit         int32    `json:"limit"`
	ReplicaLabels []string `json:"replica_labels"`
}

// sideAnswer holds what Thanos' HTTP API would show as data.
type sideAnswer struct {
	Data     any      `json:"data"`
	Warnings []string `json:"warnings"`
	Error    string   `json:"error,omitempty"`
}

// askSides answers questions about the services of StoreAPI endpoints with Thanos' own proxies and deduplication.
func askSides(addresses []string) error {
	var connections []*grpc.ClientConn
	for _, address := range addresses {
		connection, err := connect(address)
		if err != nil {
			return err
		}
		defer connection.Close()
		connections = append(connections, connection)
	}
	return eachLine(func(question sideQuestion) (sideAnswer, error) {
		data, warnings, err := askSide(connections, question)
		answer := sideAnswer{Data: data, Warnings: warnings}
		if err != nil {
			answer.Error = err.Error()
		}
		return answer, nil
	})
}

func askSide(connections []*grpc.ClientConn, question sideQuestion) (any, []string, error) {
	ctx, logger := context.Background(), log.NewNopLogger()
	switch question.Service {
	case "metadata":
		proxy := metadata.NewProxy(logger, func() (clients []metadatapb.MetadataClient) {
			for _, connection := range connections {
				clients = append(clients, metadatapb.NewMetadataClient(connection))
			}
			return
		})
		data, warnings, err := metadata.NewGRPCClient(proxy).MetricMetadata(ctx,
			&metadatapb.MetricMetadataRequest{Metric: question.Query, Limit: question.Limit})
		return data, texts(warnings.AsErrors()), err
	case "rules":
		proxy := rules.NewProxy(logger, func() (clients []rulespb.RulesClient) {
			for _, connection := range connections {
				clients = append(clients, rulespb.NewRulesClient(connection))
			}
			return
		})
		data, warnings, err := rules.NewGRPCClientWithDedup(proxy, question.ReplicaLabels).Rules(ctx, &rulespb.RulesRequest{})
		return data, texts(warnings.AsErrors()), err
	case "targets":
		proxy := targets.NewProxy(logger, func() (clients []targetspb.TargetsClient) {
			for _, connection := range connections {
				clients = append(clients, targetspb.NewTargetsClient(connection))
			}
			return
		})
		data, warnings, err := targets.NewGRPCClientWithDedup(proxy, question.ReplicaLabels).Targets(ctx, &targetspb.TargetsRequest{})
		return data, texts(warnings.AsErrors()), err
	case "exemplars":
		stores, err := exemplarStores(connections)
		if err != nil {
			return nil, nil, err
		}
		proxy := exemplars.NewProxy(logger, func() []*exemplarspb.ExemplarStore { return stores }, labels.EmptyLabels())
		data, warnings, err := exemplars.NewGRPCClientWithDedup(proxy, question.ReplicaLabels).Exemplars(ctx,
			&exemplarspb.ExemplarsRequest{Query: question.Query, Start: 0, End: math.MaxInt32 * 1000})
		return data, texts(warnings.AsErrors()), err
	case "status":
		proxy := status.NewProxy(logger, func() (clients []statuspb.StatusClient) {
			for _, connection := range connections {
				clients = append(clients, statuspb.NewStatusClient(connection))
			}
			return
		})
		data, warnings, err := status.NewGRPCClient(proxy).TSDBStatistics(ctx, &statuspb.TSDBStatisticsRequest{Limit: question.Limit})
		return data, texts(warnings.AsErrors()), err
	}
	return nil, nil, fmt.Errorf("unknown service %q", question.Service)
}

// exemplarStores are the endpoints with the label sets that they advertise.
func exemplarStores(connections []*grpc.ClientConn) ([]*exemplarspb.ExemplarStore, error) {
	var stores []*exemplarspb.ExemplarStore
	for _, connection := range connections {
		answer, err := infopb.NewInfoClient(connection).Info(context.Background(), &infopb.InfoRequest{})
		if err != nil {
			return nil, err
		}
		one := &exemplarspb.ExemplarStore{ExemplarsClient: exemplarspb.NewExemplarsClient(connection)}
		for _, set := range answer.LabelSets {
			one.LabelSets = append(one.LabelSets, labelpb.ZLabelsToPromLabels(set.Labels).Copy())
		}
		stores = append(stores, one)
	}
	return stores, nil
}

func texts(all []error) []string {
	found := []string{}
	for _, one := range all {
		found = append(found, one.Error())
	}
	return found
}
