// Command peers puts the real Prometheus engine and the real Thanos StoreAPI client, server and querier beside
// Parallax in its tests and benches. Every subcommand reads and writes lines of JSON, so that a test can drive it:
//
//	peers store BUCKET              Thanos' store gateway over a filesystem bucket; prints its address, serves until stdin closes
//	peers query ADDRESS...          Thanos' querier over StoreAPI endpoints: queries in, answers out
//	peers remote ADDRESS            Thanos' remote engine, which lets a querier evaluate: queries in, answers out
//	peers promql BLOCK...           Prometheus' engine over block directories: queries in, answers out
//	peers series ADDRESS            Thanos' StoreAPI client: requests in, series out
//	peers info ADDRESS              Thanos' Info client: one answer
//	peers side URL LABELS           what Thanos' sidecar has beside its store, over a Prometheus; prints its address, serves until stdin closes
//	peers sidecar FLAG...           Thanos' sidecar, with its flags of Prometheus' URL, addresses and TLS; serves until SIGTERM
//	peers asksides ADDRESS...       Thanos' proxies of these services over endpoints: questions in, answers out
//	peers compact DIR BLOCK...      Prometheus' compactor: one block of some, in a directory; prints its name
//	peers downsample DIR MS BLOCK   Thanos' downsampling of a block, in a directory; prints the name of the new one
//	peers language all              what Prometheus' parser knows: its functions and aggregations, one answer
//	peers xor FILE                  decodes chunks (u32 big-endian length, bytes) with Prometheus' iterator, prints the rate
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: peers store|query|remote|promql|series|info|side|sidecar|asksides|compact|downsample|language|xor ARGUMENT..."))
	}
	arguments := os.Args[2:]
	var err error
	switch os.Args[1] {
	case "store":
		err = serveStore(arguments[0])
	case "query":
		err = answerThroughThanos(arguments)
	case "remote":
		err = answerThroughRemoteEngine(arguments[0])
	case "promql":
		err = answerThroughPrometheus(arguments)
	case "series":
		err = fetchSeries(arguments[0])
	case "info":
		err = fetchInfo(arguments[0])
	case "side":
		if len(arguments) < 2 {
			fail(fmt.Errorf("usage: peers side URL LABELS"))
		}
		err = serveSide(arguments[0], arguments[1])
	case "sidecar":
		err = serveSidecar(arguments)
	case "asksides":
		err = askSides(arguments)
	case "compact":
		err = compactFurther(arguments[0], arguments[1:])
	case "downsample":
		if len(arguments) < 3 {
			fail(fmt.Errorf("usage: peers downsample DIR MS BLOCK"))
		}
		err = downsampleFurther(arguments[0], arguments[1], arguments[2])
	case "language":
		err = printLanguage()
	case "xor":
		err = measureXOR(arguments[0])
	default:
		err = fmt.Errorf("unknown subcommand %q", os.Args[1])
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "peers:", err)
	os.Exit(1)
}

// eachLine decodes one JSON value per line of standard input and prints what answer gives for it.
func eachLine[Question any, Answer any](answer func(Question) (Answer, error)) error {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<20), 1<<26)
	output := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var question Question
		if err := json.Unmarshal(lines.Bytes(), &question); err != nil {
			return fmt.Errorf("reading a question: %w", err)
		}
		result, err := answer(question)
		if err != nil {
			return err
		}
		if err := output.Encode(result); err != nil {
			return err
		}
	}
	return lines.Err()
}
