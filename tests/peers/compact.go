package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"github.com/go-kit/log"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/thanos-io/thanos/pkg/block/metadata"
	"github.com/thanos-io/thanos/pkg/compact/downsample"
)

// compactFurther lets Prometheus' compactor make one block of some, in the directory dest, and prints its name.
func compactFurther(dest string, blocks []string) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ranges := []int64{2 * 3600 * 1000}
	compactor, err := tsdb.NewLeveledCompactor(context.Background(), nil, logger, ranges, downsample.NewPool(), nil)
	if err != nil {
		return err
	}
	made, err := compactor.Compact(dest, blocks, nil)
	if err != nil {
		return err
	}
	if len(made) != 1 {
		return fmt.Errorf("%d blocks were made of %d", len(made), len(blocks))
	}
	return json.NewEncoder(os.Stdout).Encode(made[0].String())
}

// downsampleFurther lets Thanos downsample a block to so many milliseconds, in the directory dest, and prints the name of what came of it.
func downsampleFurther(dest, resolution, block string) error {
	milliseconds, err := strconv.ParseInt(resolution, 10, 64)
	if err != nil {
		return err
	}
	meta, err := metadata.ReadFromDir(block)
	if err != nil {
		return err
	}
	opened, err := tsdb.OpenBlock(slog.New(slog.NewTextHandler(os.Stderr, nil)), block, downsample.NewPool(), nil)
	if err != nil {
		return err
	}
	defer opened.Close()
	made, err := downsample.Downsample(context.Background(), log.NewNopLogger(), meta, opened, dest, milliseconds)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(made.String())
}
