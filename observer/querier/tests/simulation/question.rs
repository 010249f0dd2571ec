//! What is asked in a mesh, and what of the truth it is about.

use parallax_testkit::seeded::Seeded;

use super::truth::{NOW, Truth};

/// What an answer consists of, and so what it can be held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `m` itself: each series that is there has its value, wherever something is missing.
    Series,
    /// A number per cluster, which is too small if something is missing.
    Count,
    Sum,
    Rates,
    /// `Sum`, from more selections than may be opened at once.
    Joined,
    /// `Sum`, at several times.
    SumOverTime,
    /// One number for all clusters.
    Total,
    /// Label sets, without values.
    LabelSets,
    /// The values of `instance`.
    Values,
}

#[derive(Clone, Debug)]
pub struct Question {
    pub kind: Kind,
    /// The one cluster that is asked for; otherwise all are.
    pub only: Option<String>,
    pub partial_response: bool,
}

impl Question {
    pub fn draw(clusters: &[Truth], row: &mut Seeded) -> Self {
        let kinds = [
            Kind::Series,
            Kind::Count,
            Kind::Sum,
            Kind::Rates,
            Kind::Joined,
            Kind::SumOverTime,
            Kind::Total,
            Kind::LabelSets,
            Kind::Values,
        ];
        let kind = *row.pick(&kinds);
        let only = row.percent(25).then(|| row.pick(clusters).name.clone());
        // Of values nobody can tell whose they are.
        let only = if kind == Kind::Values { Some(row.pick(clusters).name.clone()) } else { only };
        Self { kind, only, partial_response: row.percent(75) }
    }

    /// Those that are whole only if everything is.
    pub fn of_everything() -> [Self; 2] {
        [true, false].map(|partial_response| Self { kind: Kind::Series, only: None, partial_response })
    }

    pub fn concerns(&self, cluster: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == cluster)
    }

    fn selector(&self, metric: &str) -> String {
        let matchers = self.only.as_ref().map(|only| format!("{{cluster=\"{only}\"}}"));
        format!("{metric}{}", matchers.unwrap_or_default())
    }

    fn joined(&self) -> String {
        let only = self.only.as_ref().map(|only| format!(", cluster=\"{only}\"")).unwrap_or_default();
        let of_job = |job: u32| {
            let matchers = format!("{{job=\"{job}\"{only}}}");
            format!("sum by (cluster) (m{matchers}) + 0 * count by (cluster) (c_total{matchers})")
        };
        [0, 1, 2].map(of_job).join(" + ")
    }

    pub fn uri(&self, timeout: Option<&str>) -> String {
        let (m, counter) = (self.selector("m"), self.selector("c_total"));
        let (path, query) = match self.kind {
            Kind::Series => ("query", m),
            Kind::Count => ("query", format!("count by (cluster) ({m})")),
            Kind::Sum => ("query", format!("sum by (cluster) ({m})")),
            Kind::Rates => ("query", format!("sum by (cluster) (rate({counter}[5m]))")),
            Kind::Joined => ("query", self.joined()),
            Kind::SumOverTime => ("query_range", format!("sum by (cluster) ({m})")),
            Kind::Total => ("query", format!("sum({m})")),
            Kind::LabelSets => ("series", m),
            Kind::Values => ("label/instance/values", m),
        };
        let query = encoded(&query);
        let asked = match path {
            "query" => format!("query={query}&time={NOW}"),
            "query_range" => format!("query={query}&start={}&end={NOW}&step=300", NOW - 1200),
            _ => format!("match[]={query}&start=0&end={NOW}"),
        };
        let partial = format!("partial_response={}", self.partial_response);
        let timeout = timeout.map(|timeout| format!("&timeout={timeout}")).unwrap_or_default();
        format!("/api/v1/{path}?{asked}&{partial}{timeout}").replace("[]", "%5B%5D")
    }
}

fn encoded(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
