//! The operators of a plan as a tree of names: what `explain` shows, and what an analysis hangs its numbers on.
//!
//! Names follow Thanos' engine (`[aggregate] sum by (x)`), so that tools which show its trees can show ours.

use std::sync::Arc;

use super::strip_parens;
use crate::ast::{Aggregate, AggregateOp, Binary, Call, Expr, ExprKind, Grouping, ValueType};
use crate::engine::{OperatorStats, PlanNode};
use crate::exec::analyze::Counters;

/// The longest name of an operator, in characters: a selector may have any number of matchers.
const MAX_NAME_CHARS: usize = 400;

/// The tree under construction, in the order in which operators were begun.
#[derive(Default)]
pub(crate) struct Outline {
    nodes: Vec<Node>,
    /// The operators being planned, the innermost last.
    open: Vec<usize>,
}

struct Node {
    name: String,
    parent: Option<usize>,
    counters: Arc<Counters>,
}

impl Outline {
    /// Begins an operator beneath the one that is being planned.
    pub fn begin(&mut self, name: String) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.nodes.push(Node { name, parent: self.open.last().copied(), counters: counters.clone() });
        self.open.push(self.nodes.len() - 1);
        counters
    }

    pub fn end(&mut self) {
        self.open.pop();
    }

    /// The counters of the operator that is being planned.
    pub fn current(&self) -> Option<Arc<Counters>> {
        let node = self.open.last().and_then(|at| self.nodes.get(*at))?;
        Some(node.counters.clone())
    }

    /// The tree of names.
    pub fn explain(&self) -> PlanNode {
        let mut built: Vec<PlanNode> = Vec::new();
        for node in &self.nodes {
            built.push(PlanNode { name: node.name.clone(), children: Vec::new() });
        }
        self.fold(built, |parent, child| parent.children.insert(0, child)).unwrap_or_default()
    }

    /// The tree with what each operator did.
    pub fn analysis(&self) -> OperatorStats {
        let each = |node: &Node| {
            let counted = node.counters.counted();
            OperatorStats {
                name: node.name.clone(),
                execution_time: counted.busy,
                series: counted.series,
                samples: counted.samples,
                size_bytes: counted.size_bytes,
                peak_samples: counted.largest_batch_samples,
                total_samples: counted.looked_at,
                children: Vec::new(),
            }
        };
        let built = self.nodes.iter().map(each).collect();
        self.fold(built, |parent, child: OperatorStats| {
            parent.total_samples = parent.total_samples.saturating_add(child.total_samples);
            parent.peak_samples = parent.peak_samples.max(child.peak_samples);
            parent.children.insert(0, child);
        })
        .unwrap_or_default()
    }

    /// Puts every node under its parent, from the last to the first: a child comes after its parent.
    fn fold<T>(&self, mut built: Vec<T>, mut adopt: impl FnMut(&mut T, T)) -> Option<T> {
        for at in (1..built.len()).rev() {
            let child = built.pop()?;
            let parent = self.nodes.get(at).and_then(|node| node.parent).unwrap_or(0);
            adopt(built.get_mut(parent)?, child);
        }
        built.pop()
    }
}

/// What the operator of `expr` is called.
pub(crate) fn name_of(expr: &Expr) -> String {
    let name = match &expr.kind {
        ExprKind::Number(value) => format!("[numberLiteral] {value}"),
        ExprKind::String(value) => format!("[stringLiteral] {value:?}"),
        ExprKind::Vector(selector) => format!("[vectorSelector] {selector}"),
        ExprKind::Matrix(matrix) => format!("[matrixSelector] {matrix}"),
        ExprKind::Subquery(subquery) => format!("[subquery] {}", bracket(subquery)),
        ExprKind::Aggregate(aggregate) => aggregate_name(aggregate),
        ExprKind::Binary(binary) => binary_name(binary),
        ExprKind::Unary { .. } => "[unaryNegation]".to_owned(),
        ExprKind::Paren(inner) => return name_of(inner),
        ExprKind::Call(call) => call_name(call),
    };
    shortened(name)
}

pub(super) fn shortened(name: String) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name,
    }
}

fn bracket(subquery: &crate::ast::Subquery) -> String {
    match &subquery.step {
        Some(step) => format!("[{}:{step}]", subquery.range),
        None => format!("[{}:]", subquery.range),
    }
}

fn aggregate_name(aggregate: &Aggregate) -> String {
    let kind = match aggregate.op {
        AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
            "kaggregate"
        }
        AggregateOp::CountValues => "countValues",
        _ => "aggregate",
    };
    let (clause, labels) = match &aggregate.grouping {
        Grouping::By(labels) => ("by", labels),
        Grouping::Without(labels) => ("without", labels),
    };
    format!("[{kind}] {} {clause} ({})", aggregate.op.name(), labels.join(", "))
}

fn binary_name(binary: &Binary) -> String {
    let is_vector = |expr: &Expr| expr.value_type() == ValueType::Vector;
    let kind = match (is_vector(&binary.left), is_vector(&binary.right)) {
        (true, true) => "vectorBinary",
        (false, false) => "scalarBinary",
        _ => "vectorScalarBinary",
    };
    let matching = binary.matching.as_ref().map(ToString::to_string).unwrap_or_default();
    let with_bool = if binary.return_bool { " bool" } else { "" };
    format!("[{kind}] {}{with_bool}{matching}", binary.op.symbol())
}

/// A function over a range is one operator with its selector; a subquery is evaluated by operators of its own.
fn call_name(call: &Call) -> String {
    let name = call.function.name;
    let range = call.arguments.iter().map(strip_parens).find(|expr| expr.value_type() == ValueType::Matrix);
    match range.map(|expr| &expr.kind) {
        Some(ExprKind::Matrix(matrix)) => format!("[matrixSelector] {name}({matrix})"),
        Some(ExprKind::Subquery(subquery)) => format!("[subquery] {name}({})", bracket(subquery)),
        _ => format!("[function] {name}"),
    }
}
