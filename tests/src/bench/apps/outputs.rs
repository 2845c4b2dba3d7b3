//! The figures in the output of the load generators.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::traffic::Latency;

/// Figures of one run of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    /// Completed requests.
    pub(super) requests: u64,
    pub(super) per_second: f64,
    pub(super) p99_us: f64,
}

/// Output of `redis-benchmark --csv`: a header, and a line of quoted values for the test.
pub(super) fn redis_benchmark(output: &str, requests: u64) -> Result<Measured> {
    let mut lines = output.lines().map(|line| line.split(',').map(|cell| cell.trim_matches('"')));
    let (header, values) = lines.next().zip(lines.next()).context("redis-benchmark printed no table")?;
    let row: Vec<_> = header.zip(values).collect();
    let value = |name: &str| -> Result<f64> {
        let cell = row.iter().find(|(header, _)| *header == name).map(|(_, value)| value.parse());
        Ok(cell.with_context(|| format!("redis-benchmark printed no {name}"))??)
    };
    Ok(Measured { requests, per_second: value("rps")?, p99_us: value("p99_latency_ms")? * 1e3 })
}

/// Output of `wrk --latency`.
pub(super) fn wrk(output: &str) -> Result<Measured> {
    for error in ["Socket errors:", "Non-2xx or 3xx responses:"] {
        let line = output.lines().find(|line| line.trim().starts_with(error));
        ensure!(line.is_none(), "wrk: {}", line.unwrap_or_default().trim());
    }
    let requests = output.lines().find_map(|line| line.trim().split_once(" requests in "));
    let (requests, _) = requests.context("wrk printed no number of requests")?;
    let p99 = field(output, "99%").context("wrk printed no percentiles")?;
    let per_second = field(output, "Requests/sec:").context("wrk printed no rate")?;
    Ok(Measured { requests: requests.parse()?, per_second: per_second.parse()?, p99_us: microseconds(p99)? })
}

/// A time of wrk, for instance `1.20ms`.
fn microseconds(time: &str) -> Result<f64> {
    let at = time.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(time.len());
    let (number, unit) = time.split_at(at);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => bail!("unknown unit in {time}"),
    };
    Ok(number.parse::<f64>()? * factor)
}

/// Output of ab, and its file of percentiles: `99,1.234` in ms.
pub(super) fn apache_bench(output: &str, percentiles: &str) -> Result<Measured> {
    let value = |name: &str| field(output, name).with_context(|| format!("ab printed no line `{name}`"));
    let (failed, requests) = (value("Failed requests:")?, value("Complete requests:")?);
    ensure!(failed == "0" && field(output, "Non-2xx responses:").is_none(), "ab: {failed} failed requests");
    let p99 = percentiles.lines().find_map(|line| line.strip_prefix("99,")).context("ab wrote no 99th percentile")?;
    Ok(Measured {
        requests: requests.parse()?,
        per_second: value("Requests per second:")?.parse()?,
        p99_us: p99.parse::<f64>()? * 1e3,
    })
}

/// Output of pgbench, and its log: a line per transaction, with its time in µs as the third word.
pub(super) fn pgbench(output: &str, log: &str) -> Result<Measured> {
    let failed = field(output, "number of failed transactions:").unwrap_or("0");
    ensure!(failed == "0", "pgbench: {failed} failed transactions");
    let requests = field(output, "number of transactions actually processed:");
    let per_second = field(output, "tps =").context("pgbench printed no rate")?;
    let times = log.lines().filter_map(|line| line.split(' ').nth(2)?.parse().ok());
    let times = Latency::new(times.map(Duration::from_micros).collect());
    ensure!(times.count() > 0, "the log of pgbench is empty");
    Ok(Measured {
        requests: requests.context("pgbench printed no number of transactions")?.parse()?,
        per_second: per_second.parse()?,
        p99_us: times.percentile_us(99),
    })
}

/// The word after `name` at the beginning of a line.
fn field<'a>(output: &'a str, name: &str) -> Option<&'a str> {
    output.lines().find_map(|line| line.trim_start().strip_prefix(name)?.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded from the programs of Debian 12: redis-tools 7.0.15, wrk 4.1.0, apache2-utils 2.4.71, postgresql-15 15.18.

    const REDIS: &str = r#""test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"GET","67567.57","0.307","0.032","0.303","0.439","0.615","2.223"
"#;

    const WRK: &str = "Running 1s test @ http://127.0.0.1:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.71ms    3.95ms  39.06ms   96.78%
    Req/Sec    31.17k    11.02k   47.26k    70.00%
  Latency Distribution
     50%  733.00us
     75%    1.41ms
     90%    2.81ms
     99%   26.92ms
  31204 requests in 1.02s, 7.02MB read
Requests/sec:  30712.96
Transfer/sec:      6.91MB
";

    const AB: &str = "Concurrency Level:      32
Time taken for tests:   0.067 seconds
Complete requests:      500
Failed requests:        0
Total transferred:      115500 bytes
HTML transferred:       1000 bytes
Requests per second:    7517.89 [#/sec] (mean)
Time per request:       4.257 [ms] (mean)
Time per request:       0.133 [ms] (mean, across all concurrent requests)
Transfer rate:          1695.93 [Kbytes/sec] received
";
    const AB_PERCENTILES: &str = "Percentage served,Time in ms\n0,1.247\n98,7.585\n99,7.723\n100,7.821\n";

    const PGBENCH: &str = "pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: select only>
scaling factor: 1
query mode: simple
number of clients: 8
number of threads: 1
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 27894
number of failed transactions: 0 (0.000%)
latency average = 0.276 ms
initial connection time = 39.786 ms
tps = 28955.448844 (without initial connection time)
";
    const PGBENCH_LOG: &str =
        "1 1 933 0 1796033430 784235\n2 1 2765 0 1796033430 786079\n3 1 2756 0 1796033430 786089\n";

    fn measured(requests: u64, per_second: f64, p99_us: f64) -> Measured {
        Measured { requests, per_second, p99_us }
    }

    #[test]
    fn figures_of_each_program_are_read() {
        assert_eq!(redis_benchmark(REDIS, 5000).unwrap(), measured(5000, 67_567.57, 615.0));
        assert_eq!(wrk(WRK).unwrap(), measured(31_204, 30_712.96, 26_920.0));
        assert_eq!(apache_bench(AB, AB_PERCENTILES).unwrap(), measured(500, 7517.89, 7723.0));
        assert_eq!(pgbench(PGBENCH, PGBENCH_LOG).unwrap(), measured(27_894, 28_955.448_844, 2765.0));
    }

    #[test]
    fn failed_requests_are_errors() {
        let line = "  Non-2xx or 3xx responses: 35450\n";
        assert!(wrk(&format!("{WRK}{line}")).unwrap_err().to_string().contains("35450"));
        assert!(apache_bench(&format!("{AB}Non-2xx responses:      500\n"), AB_PERCENTILES).is_err());
        assert!(
            apache_bench(&AB.replace("Failed requests:        0", "Failed requests:        3"), AB_PERCENTILES)
                .is_err()
        );
        assert!(pgbench(&PGBENCH.replace("failed transactions: 0", "failed transactions: 2"), PGBENCH_LOG).is_err());
    }

    #[test]
    fn output_without_figures_is_an_error() {
        assert!(redis_benchmark("", 1).is_err() && redis_benchmark("\"test\",\"rps\"\n\"GET\",\"1\"\n", 1).is_err());
        assert!(wrk("unable to connect").is_err() && pgbench(PGBENCH, "").is_err() && apache_bench(AB, "").is_err());
    }

    #[test]
    fn times_of_wrk_have_units() {
        for (time, expected) in [("733.00us", 733.0), ("26.92ms", 26_920.0), ("1.05s", 1_050_000.0)] {
            assert_eq!(microseconds(time).unwrap(), expected);
        }
        assert!(microseconds("1.00m").is_err());
    }
}
