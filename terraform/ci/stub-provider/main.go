// A stand-in for Terraform providers, for checks without a registry, a cloud or a cluster.
//
// One binary; the provider it plays is told by its file name (terraform-provider-<name>_v<version>). Schemas are ours, in
// schemas/*.json. What it proves: names, types, flags (required, computed, sensitive) and wiring. What it does not prove: anything
// a real provider checks or does, except for tls, whose keys and certificates are real (tls.go), so that what the pki module
// describes can be loaded by Parallax. It keeps no state of its own and talks to nobody.
package main

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6/tf6server"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

//go:embed schemas/*.json
var schemas embed.FS

// body maps an attribute to "<flags> <type>": flags of R(equired) O(ptional) C(omputed) S(ensitive); the type is a bare primitive or
// Terraform's JSON form. A key with a leading "@" is a nested block: {"nesting":"list","min":0,"max":1,"body":{...}}.
type body map[string]json.RawMessage

type file struct {
	Provider  body            `json:"provider"`
	Resources map[string]body `json:"resources"`
	Data      map[string]body `json:"data"`
}

type nested struct {
	Nesting string `json:"nesting"`
	Min     int64  `json:"min"`
	Max     int64  `json:"max"`
	Body    body   `json:"body"`
}

func block(b body) (*tfprotov6.SchemaBlock, error) {
	out := &tfprotov6.SchemaBlock{}
	for key, raw := range b {
		if name, isBlock := strings.CutPrefix(key, "@"); isBlock {
			child, err := nestedBlock(name, raw)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			out.BlockTypes = append(out.BlockTypes, child)
			continue
		}
		attribute, err := attribute(key, raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out.Attributes = append(out.Attributes, attribute)
	}
	return out, nil
}

func nestedBlock(name string, raw json.RawMessage) (*tfprotov6.SchemaNestedBlock, error) {
	var n nested
	if err := json.Unmarshal(raw, &n); err != nil {
		return nil, err
	}
	inner, err := block(n.Body)
	if err != nil {
		return nil, err
	}
	mode, known := map[string]tfprotov6.SchemaNestedBlockNestingMode{
		"list":   tfprotov6.SchemaNestedBlockNestingModeList,
		"set":    tfprotov6.SchemaNestedBlockNestingModeSet,
		"single": tfprotov6.SchemaNestedBlockNestingModeSingle,
	}[n.Nesting]
	if !known {
		return nil, fmt.Errorf("unknown nesting %q", n.Nesting)
	}
	return &tfprotov6.SchemaNestedBlock{TypeName: name, Block: inner, Nesting: mode, MinItems: n.Min, MaxItems: n.Max}, nil
}

func attribute(name string, raw json.RawMessage) (*tfprotov6.SchemaAttribute, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, err
	}
	flags, kind, found := strings.Cut(text, " ")
	if !found {
		return nil, fmt.Errorf("%q is not \"<flags> <type>\"", text)
	}
	if !strings.HasPrefix(kind, "[") {
		kind = `"` + kind + `"`
	}
	parsed, err := tftypes.ParseJSONType([]byte(kind)) //nolint:staticcheck // the only parser of this form
	if err != nil {
		return nil, err
	}
	has := func(flag string) bool { return strings.Contains(flags, flag) }
	return &tfprotov6.SchemaAttribute{
		Name: name, Type: parsed, Required: has("R"), Optional: has("O"), Computed: has("C"), Sensitive: has("S"),
	}, nil
}

func load(name string) (*tfprotov6.GetProviderSchemaResponse, error) {
	raw, err := schemas.ReadFile("schemas/" + name + ".json")
	if err != nil {
		return nil, fmt.Errorf("there is no schema for provider %s: %w", name, err)
	}
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("schemas/%s.json: %w", name, err)
	}
	response := &tfprotov6.GetProviderSchemaResponse{
		ServerCapabilities: &tfprotov6.ServerCapabilities{GetProviderSchemaOptional: true},
		ResourceSchemas:    map[string]*tfprotov6.Schema{},
		DataSourceSchemas:  map[string]*tfprotov6.Schema{},
	}
	provider, err := block(f.Provider)
	if err != nil {
		return nil, fmt.Errorf("provider %s: %w", name, err)
	}
	response.Provider = &tfprotov6.Schema{Block: provider}
	for kind, bodies := range map[string]map[string]body{"resource": f.Resources, "data": f.Data} {
		for typeName, b := range bodies {
			parsed, err := block(b)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", kind, typeName, err)
			}
			if kind == "data" {
				response.DataSourceSchemas[typeName] = &tfprotov6.Schema{Block: parsed}
			} else {
				response.ResourceSchemas[typeName] = &tfprotov6.Schema{Block: parsed}
			}
		}
	}
	return response, nil
}

type server struct {
	tfprotov6.ProviderServer
	schema *tfprotov6.GetProviderSchemaResponse
}

func (s *server) GetMetadata(context.Context, *tfprotov6.GetMetadataRequest) (*tfprotov6.GetMetadataResponse, error) {
	m := &tfprotov6.GetMetadataResponse{ServerCapabilities: s.schema.ServerCapabilities}
	for name := range s.schema.ResourceSchemas {
		m.Resources = append(m.Resources, tfprotov6.ResourceMetadata{TypeName: name})
	}
	for name := range s.schema.DataSourceSchemas {
		m.DataSources = append(m.DataSources, tfprotov6.DataSourceMetadata{TypeName: name})
	}
	return m, nil
}

func (s *server) GetProviderSchema(context.Context, *tfprotov6.GetProviderSchemaRequest) (*tfprotov6.GetProviderSchemaResponse, error) {
	return s.schema, nil
}

func (s *server) GetResourceIdentitySchemas(context.Context, *tfprotov6.GetResourceIdentitySchemasRequest) (*tfprotov6.GetResourceIdentitySchemasResponse, error) {
	return &tfprotov6.GetResourceIdentitySchemasResponse{}, nil
}

func (s *server) ValidateProviderConfig(_ context.Context, r *tfprotov6.ValidateProviderConfigRequest) (*tfprotov6.ValidateProviderConfigResponse, error) {
	return &tfprotov6.ValidateProviderConfigResponse{PreparedConfig: r.Config}, nil
}

func (s *server) ConfigureProvider(context.Context, *tfprotov6.ConfigureProviderRequest) (*tfprotov6.ConfigureProviderResponse, error) {
	return &tfprotov6.ConfigureProviderResponse{}, nil
}

func (s *server) StopProvider(context.Context, *tfprotov6.StopProviderRequest) (*tfprotov6.StopProviderResponse, error) {
	return &tfprotov6.StopProviderResponse{}, nil
}

func (s *server) ValidateResourceConfig(context.Context, *tfprotov6.ValidateResourceConfigRequest) (*tfprotov6.ValidateResourceConfigResponse, error) {
	return &tfprotov6.ValidateResourceConfigResponse{}, nil
}

func (s *server) ValidateDataResourceConfig(context.Context, *tfprotov6.ValidateDataResourceConfigRequest) (*tfprotov6.ValidateDataResourceConfigResponse, error) {
	return &tfprotov6.ValidateDataResourceConfigResponse{}, nil
}

func main() {
	name := strings.TrimPrefix(filepath.Base(os.Args[0]), "terraform-provider-")
	name, _, _ = strings.Cut(name, "_")
	schema, err := load(name)
	if err == nil {
		err = tf6server.Serve("registry.terraform.io/hashicorp/"+name, func() tfprotov6.ProviderServer {
			return &server{schema: schema}
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
