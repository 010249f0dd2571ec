package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"sort"
	"time"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// measureXOR decodes all chunks of the file again and again and prints the best rate of nine rounds.
func measureXOR(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var chunks []chunkenc.Chunk
	for len(content) > 0 {
		if len(content) < 4 {
			return errors.New("a chunk without its length")
		}
		length := binary.BigEndian.Uint32(content)
		if int(length) > len(content)-4 {
			return errors.New("a truncated chunk")
		}
		chunk, err := chunkenc.FromData(chunkenc.EncXOR, content[4:4+length])
		if err != nil {
			return err
		}
		chunks = append(chunks, chunk)
		content = content[4+length:]
	}
	var rates []float64
	var iterator chunkenc.Iterator
	var sum float64
	samples := 0
	for round := 0; round < 9; round++ {
		samples = 0
		started := time.Now()
		for _, chunk := range chunks {
			iterator = chunk.Iterator(iterator)
			for iterator.Next() == chunkenc.ValFloat {
				timeMs, value := iterator.At()
				sum += value + float64(timeMs)
				samples++
			}
			if iterator.Err() != nil {
				return iterator.Err()
			}
		}
		rates = append(rates, float64(samples)/time.Since(started).Seconds())
	}
	sort.Float64s(rates)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"chunks": len(chunks), "samples": samples, "samples_per_second": rates[len(rates)-1], "check": sum != 0})
}
