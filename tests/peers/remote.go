package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/prometheus/promql"
	"github.com/thanos-io/thanos/pkg/api/query/querypb"
	"github.com/thanos-io/thanos/pkg/info/infopb"
	"github.com/thanos-io/thanos/pkg/query"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// expression is the text of a query where Thanos wants a plan.
type expression string

func (e expression) String() string { return string(e) }

// answerThroughRemoteEngine evaluates queries as a Thanos querier in distributed mode does: somewhere else, through the Query API.
func answerThroughRemoteEngine(address string) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return err
	}
	defer connection.Close()
	info, err := infopb.NewInfoClient(connection).Info(context.Background(), &infopb.InfoRequest{})
	if err != nil {
		return err
	}
	if info.Query == nil {
		return fmt.Errorf("%s does not offer the Query API", address)
	}
	client := query.NewClient(querypb.NewQueryClient(connection), address, infopb.TSDBInfos(info.Store.TsdbInfos))
	return eachLine(func(q question) (answer, error) {
		engine := query.NewRemoteEngine(log.NewNopLogger(), client, query.Opts{ReplicaLabels: q.ReplicaLabels, Timeout: time.Minute})
		ctx := context.Background()
		started := time.Now()
		var prepared promql.Query
		var err error
		if q.StepMs == 0 {
			prepared, err = engine.NewInstantQuery(ctx, nil, expression(q.Query), time.UnixMilli(q.StartMs))
		} else {
			step := time.Duration(q.StepMs) * time.Millisecond
			prepared, err = engine.NewRangeQuery(ctx, nil, expression(q.Query), time.UnixMilli(q.StartMs), time.UnixMilli(q.EndMs), step)
		}
		if err != nil {
			return answer{}, err
		}
		result := prepared.Exec(ctx)
		tookMs := float64(time.Since(started).Microseconds()) / 1000
		if result.Err != nil {
			return failed(http.StatusUnprocessableEntity, "execution", result.Err)
		}
		written, err := success(q.Query, result)
		return answer{Status: http.StatusOK, Response: written, TookMs: tookMs}, err
	})
}
