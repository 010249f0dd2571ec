// Plan and apply of the stand-in: what the configuration says is kept, what a provider would compute is made up.
package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// Values by attribute name, as tftypes gives them.
type values map[string]tftypes.Value

func (v values) text(name string) string {
	var text string
	if value, found := v[name]; found && value.IsKnown() && !value.IsNull() {
		_ = value.As(&text)
	}
	return text
}

func decode(raw *tfprotov6.DynamicValue, kind tftypes.Type) (tftypes.Value, values, error) {
	value, err := raw.Unmarshal(kind)
	if err != nil || value.IsNull() {
		return value, nil, err
	}
	fields := values{}
	err = value.As((*map[string]tftypes.Value)(&fields))
	return value, fields, err
}

func encode(kind tftypes.Type, fields values) (*tfprotov6.DynamicValue, error) {
	encoded, err := tfprotov6.NewDynamicValue(kind, tftypes.NewValue(kind, map[string]tftypes.Value(fields)))
	return &encoded, err
}

func (s *server) UpgradeResourceState(_ context.Context, r *tfprotov6.UpgradeResourceStateRequest) (*tfprotov6.UpgradeResourceStateResponse, error) {
	kind := s.schema.ResourceSchemas[r.TypeName].ValueType()
	value, err := r.RawState.Unmarshal(kind)
	if err != nil {
		return nil, err
	}
	encoded, err := tfprotov6.NewDynamicValue(kind, value)
	return &tfprotov6.UpgradeResourceStateResponse{UpgradedState: &encoded}, err
}

func (s *server) ReadResource(_ context.Context, r *tfprotov6.ReadResourceRequest) (*tfprotov6.ReadResourceResponse, error) {
	return &tfprotov6.ReadResourceResponse{NewState: r.CurrentState, Private: r.Private}, nil
}

func (s *server) PlanResourceChange(_ context.Context, r *tfprotov6.PlanResourceChangeRequest) (*tfprotov6.PlanResourceChangeResponse, error) {
	schema := s.schema.ResourceSchemas[r.TypeName]
	kind := schema.ValueType()
	_, fields, err := decode(r.ProposedNewState, kind)
	if err != nil {
		return nil, err
	}
	if fields == nil { // destroy
		return &tfprotov6.PlanResourceChangeResponse{PlannedState: r.ProposedNewState}, nil
	}
	prior, before, err := decode(r.PriorState, kind)
	if err != nil {
		return nil, err
	}
	var replace []*tftypes.AttributePath
	for _, attribute := range schema.Block.Attributes {
		name := attribute.Name
		if attribute.Computed && prior.IsNull() && fields[name].IsNull() {
			fields[name] = tftypes.NewValue(attribute.Type, tftypes.UnknownValue)
		}
		// A certificate is never changed, only made again.
		if strings.HasPrefix(r.TypeName, "tls_") && !prior.IsNull() && !fields[name].Equal(before[name]) {
			replace = append(replace, tftypes.NewAttributePath().WithAttributeName(name))
		}
	}
	planned, err := encode(kind, fields)
	return &tfprotov6.PlanResourceChangeResponse{PlannedState: planned, RequiresReplace: replace}, err
}

func (s *server) ApplyResourceChange(_ context.Context, r *tfprotov6.ApplyResourceChangeRequest) (*tfprotov6.ApplyResourceChangeResponse, error) {
	schema := s.schema.ResourceSchemas[r.TypeName]
	kind := schema.ValueType()
	_, fields, err := decode(r.PlannedState, kind)
	if err != nil || fields == nil {
		return &tfprotov6.ApplyResourceChangeResponse{NewState: r.PlannedState}, err
	}
	made, err := compute(r.TypeName, fields)
	if err != nil {
		return &tfprotov6.ApplyResourceChangeResponse{Diagnostics: []*tfprotov6.Diagnostic{{
			Severity: tfprotov6.DiagnosticSeverityError, Summary: r.TypeName, Detail: err.Error(),
		}}}, nil
	}
	for _, attribute := range schema.Block.Attributes {
		if fields[attribute.Name].IsKnown() {
			continue
		}
		fields[attribute.Name] = placeholder(attribute, made[attribute.Name])
	}
	state, err := encode(kind, fields)
	return &tfprotov6.ApplyResourceChangeResponse{NewState: state}, err
}

func placeholder(attribute *tfprotov6.SchemaAttribute, made string) tftypes.Value {
	switch {
	case attribute.Type.Is(tftypes.String) && made != "":
		return tftypes.NewValue(tftypes.String, made)
	case attribute.Type.Is(tftypes.String):
		return tftypes.NewValue(tftypes.String, "stand-in-"+attribute.Name)
	case attribute.Type.Is(tftypes.Bool):
		return tftypes.NewValue(tftypes.Bool, false)
	case attribute.Type.Is(tftypes.Number):
		return tftypes.NewValue(tftypes.Number, 0)
	default:
		return tftypes.NewValue(attribute.Type, nil)
	}
}

// compute gives the attributes that other resources use and whose form matters.
func compute(kind string, fields values) (map[string]string, error) {
	switch kind {
	case "aws_s3_bucket":
		name := fields.text("bucket")
		return map[string]string{"id": name, "arn": "arn:aws:s3:::" + name}, nil
	case "aws_iam_role":
		name := fields.text("name")
		return map[string]string{"id": name, "arn": fmt.Sprintf("arn:aws:iam::123456789012:role/%s", name)}, nil
	case "tls_private_key", "tls_self_signed_cert", "tls_cert_request", "tls_locally_signed_cert":
		return computeTLS(kind, fields)
	}
	return nil, nil
}
