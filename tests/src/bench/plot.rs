//! The plots, as SVG on a white background.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    results::{Figure, Metric, P50, P99, PACKETS, REQUESTS, Results, Series, THROUGHPUT},
    scale::LEVELS,
    stats::Summary,
};

const PANEL: (u32, u32) = (500, 380);
const FONT: &str = "sans-serif";
const TEXT: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const LEGEND: u32 = 34;

/// The paths in order, with colours for colour-blind readers; grey for the upper bounds.
const PATHS: [(&str, RGBColor); 6] = [
    ("bound-host", RGBColor(200, 200, 200)),
    ("bound-redirect", RGBColor(150, 150, 150)),
    ("kernel", RGBColor(230, 159, 0)),
    ("metadata", RGBColor(204, 121, 167)),
    ("tc", RGBColor(0, 114, 178)),
    ("xdp", RGBColor(0, 158, 115)),
];

const SIZES: [(&str, RGBColor); 3] = [
    (LEVELS[0].name, RGBColor(158, 202, 225)),
    (LEVELS[1].name, RGBColor(66, 146, 198)),
    (LEVELS[2].name, RGBColor(8, 69, 148)),
];

/// A bar chart with groups of bars.
struct Panel {
    title: &'static str,
    unit: &'static str,
    /// Case, metric, label of the group.
    groups: &'static [(&'static str, Metric, &'static str)],
}

impl Panel {
    /// The plotted values of a path.
    fn summary(&self, figure: &Figure, path: &str) -> Option<Summary> {
        if self.unit == RELATIVE {
            figure.relative(path, "kernel")
        } else {
            figure.series(path).and_then(Series::summary)
        }
    }
}

/// Unit of panels with ratios instead of values.
const RELATIVE: &str = "relative to kernel, more is better";

/// One file.
struct Plot {
    file: &'static str,
    series: &'static [(&'static str, RGBColor)],
    panels: &'static [Panel],
}

const PLOTS: [Plot; 5] = [
    Plot {
        file: "throughput.svg",
        series: &PATHS,
        panels: &[
            Panel {
                title: "TCP, super-packets on the wire",
                unit: "Gbit/s, more is better",
                groups: &[("tcp1", THROUGHPUT, "1 stream"), ("tcp8", THROUGHPUT, "8 streams")],
            },
            Panel {
                title: "TCP, segments on the wire",
                unit: "Gbit/s, more is better",
                groups: &[
                    ("tcp1_noseg", THROUGHPUT, "1 stream"),
                    ("tcp8_noseg", THROUGHPUT, "8 streams"),
                    ("tcp1_gro", THROUGHPUT, "1, GRO"),
                    ("tcp8_gro", THROUGHPUT, "8, GRO"),
                ],
            },
        ],
    },
    Plot {
        file: "latency.svg",
        series: &PATHS,
        panels: &[
            Panel {
                title: "Round trip, median",
                unit: "µs, less is better",
                groups: &[("udp_rr", P50, "UDP"), ("tcp_rr", P50, "TCP")],
            },
            Panel {
                title: "Round trip, 99th percentile",
                unit: "µs, less is better",
                groups: &[("udp_rr", P99, "UDP"), ("tcp_rr", P99, "TCP")],
            },
        ],
    },
    Plot {
        file: "pps.svg",
        series: &PATHS,
        panels: &[
            Panel {
                title: "UDP, received by the application",
                unit: "1,000 packets/s, more is better",
                groups: &[("udp64", PACKETS, "64 bytes"), ("udp1400", PACKETS, "1,400 bytes")],
            },
            Panel {
                title: "One direction, per core",
                unit: "1,000 packets/s, more is better",
                groups: &[("encap_pps", PACKETS, "encapsulation"), ("decap_pps", PACKETS, "decapsulation")],
            },
        ],
    },
    Plot {
        file: "scale.svg",
        series: &SIZES,
        panels: &[
            Panel {
                title: "UDP, received by the application",
                unit: "1,000 packets/s, more is better",
                groups: &[("scale_udp64", PACKETS, "64 bytes")],
            },
            Panel {
                title: "Encapsulation, per core",
                unit: "1,000 packets/s, more is better",
                groups: &[
                    ("scale_encap_pps", PACKETS, "one destination"),
                    ("scale_encap_spread", PACKETS, "many destinations"),
                ],
            },
            Panel {
                title: "Round trip, median",
                unit: "µs, less is better",
                groups: &[("scale_udp_rr", P50, "UDP"), ("scale_tcp_rr", P50, "TCP")],
            },
        ],
    },
    Plot {
        file: "apps.svg",
        series: &PATHS,
        panels: &[
            Panel {
                title: "Requests per second",
                unit: RELATIVE,
                groups: &[
                    ("redis_set", REQUESTS, "Redis SET"),
                    ("redis_get", REQUESTS, "Redis GET"),
                    ("memcached_get", REQUESTS, "memcached"),
                    ("nginx_keepalive", REQUESTS, "HTTP"),
                    ("nginx_connect", REQUESTS, "HTTP, new"),
                    ("postgres_select", REQUESTS, "pgbench"),
                ],
            },
            Panel {
                title: "UDP round trips, by flows at once",
                unit: RELATIVE,
                groups: &[
                    ("udp_rr1_1cpu", REQUESTS, "1"),
                    ("udp_rr2_1cpu", REQUESTS, "2"),
                    ("udp_rr4_1cpu", REQUESTS, "4"),
                    ("udp_rr8_1cpu", REQUESTS, "8"),
                    ("udp_rr16_1cpu", REQUESTS, "16"),
                    ("udp_rr32_1cpu", REQUESTS, "32"),
                ],
            },
            Panel {
                title: "TCP round trips, by flows at once",
                unit: RELATIVE,
                groups: &[
                    ("tcp_rr1_1cpu", REQUESTS, "1"),
                    ("tcp_rr2_1cpu", REQUESTS, "2"),
                    ("tcp_rr4_1cpu", REQUESTS, "4"),
                    ("tcp_rr8_1cpu", REQUESTS, "8"),
                    ("tcp_rr16_1cpu", REQUESTS, "16"),
                    ("tcp_rr32_1cpu", REQUESTS, "32"),
                ],
            },
        ],
    },
];

/// Writes the plots that have figures.
pub(super) fn write(results: &Results, directory: &Path) -> Result<()> {
    for plot in &PLOTS {
        let has = |panel: &&Panel| panel.groups.iter().any(|(case, metric, _)| results.figure(case, *metric).is_some());
        let panels: Vec<&Panel> = plot.panels.iter().filter(has).collect();
        if panels.is_empty() {
            continue;
        }
        let path = directory.join(plot.file);
        draw(plot, &panels, results, &path).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))?;
    }
    Ok(())
}

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(plot: &Plot, panels: &[&Panel], results: &Results, path: &Path) -> Drawn {
    let size = (PANEL.0 * panels.len() as u32, PANEL.1 + LEGEND);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (legend, rest) = root.split_vertically(LEGEND);
    let figures = |panel: &Panel| -> Vec<_> {
        panel.groups.iter().filter_map(|(case, metric, label)| Some((results.figure(case, *metric)?, *label))).collect()
    };
    let all: Vec<_> = panels.iter().flat_map(|panel| figures(panel)).collect();
    // The legend has only measured series.
    let series: Vec<_> =
        plot.series.iter().filter(|(name, _)| all.iter().any(|(figure, _)| figure.series(name).is_some())).collect();
    draw_legend(&legend, &series)?;
    for (area, panel) in rest.split_evenly((1, panels.len())).iter().zip(panels) {
        draw_panel(area, panel, &figures(panel), &series)?;
    }
    root.present()?;
    Ok(())
}

fn draw_legend(area: &Area<'_>, series: &[&(&str, RGBColor)]) -> Drawn {
    let mut x = 70;
    for (name, colour) in series {
        area.draw(&Rectangle::new([(x, 12), (x + 14, 26)], colour.filled()))?;
        let style = (FONT, 15).into_font().color(&TEXT).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new((*name).to_owned(), (x + 20, 19), style))?;
        // The SVG backend has no font metrics: 8 pixels per letter is an upper estimate.
        x += 44 + 8 * i32::try_from(name.len())?;
    }
    Ok(())
}

fn draw_panel(area: &Area<'_>, panel: &Panel, groups: &[(&Figure, &str)], series: &[&(&str, RGBColor)]) -> Drawn {
    let summaries = |figure: &Figure| -> Vec<(usize, RGBColor, Summary)> {
        let of =
            |(index, (name, colour)): (usize, &&(&str, RGBColor))| Some((index, *colour, panel.summary(figure, name)?));
        series.iter().enumerate().filter_map(of).collect()
    };
    let highest = groups.iter().flat_map(|(figure, _)| summaries(figure)).map(|(.., summary)| summary.max);
    let top = highest.fold(0.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, (FONT, 18).into_font().color(&TEXT))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(58)
        .build_cartesian_2d(0.0..groups.len() as f64, 0.0..top.max(f64::MIN_POSITIVE))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(TEXT)
        .y_labels(6)
        .y_desc(panel.unit)
        .y_label_formatter(&|value| if panel.unit == RELATIVE { format!("{value:.1}") } else { format!("{value:.0}") })
        .label_style((FONT, 14).into_font().color(&TEXT))
        .draw()?;

    let width = 0.86 / series.len().max(1) as f64;
    for (group, (figure, label)) in groups.iter().enumerate() {
        let left = group as f64 + 0.07;
        for (index, colour, summary) in summaries(figure) {
            let (from, to) = (left + width * index as f64, left + width * (index as f64 + 0.9));
            let middle = f64::midpoint(from, to);
            chart.draw_series([Rectangle::new([(from, 0.0), (to, summary.median)], colour.filled())])?;
            if summary.count > 1 {
                chart.draw_series([PathElement::new([(middle, summary.min), (middle, summary.max)], TEXT)])?;
            }
            let style = (FONT, 11).into_font().color(&TEXT).pos(Pos::new(HPos::Center, VPos::Bottom));
            let at = (middle, summary.max + top * 0.01);
            chart.draw_series([Text::new(super::report::number(summary.median), at, style)])?;
        }
        let style = (FONT, 14).into_font().color(&TEXT).pos(Pos::new(HPos::Center, VPos::Top));
        let (x, y) = chart.backend_coord(&(group as f64 + 0.5, 0.0));
        // Relative to the panel, not to the file.
        let (base_x, base_y) = area.get_base_pixel();
        area.draw(&Text::new((*label).to_owned(), (x - base_x, y - base_y + 8), style))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plot_has_labels_as_text_and_leaves_out_unmeasured_series() {
        let directory = tempfile::tempdir().unwrap();
        let mut results = Results::default();
        results.add("udp_rr", P50, "kernel", &[], 0, 20.0);
        results.add("udp_rr", P50, "tc", &[], 0, 12.0);
        write(&results, directory.path()).unwrap();
        let files: Vec<_> = directory.path().read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, ["latency.svg"]);
        let svg = std::fs::read_to_string(directory.path().join("latency.svg")).unwrap();
        for word in ["Round trip, median", "kernel", "tc", "UDP", "µs, less is better", "20.0", "12.0"] {
            assert!(svg.contains(&format!("\n{word}\n")), "{word}: {svg}");
        }
        assert!(!svg.contains("bound-host") && !svg.contains("99th percentile"), "{svg}");
    }

    #[test]
    fn panel_of_ratios_shows_them_instead_of_values() {
        let directory = tempfile::tempdir().unwrap();
        let mut results = Results::default();
        results.add("redis_get", REQUESTS, "kernel", &[], 0, 40_000.0);
        results.add("redis_get", REQUESTS, "tc", &[], 0, 50_000.0);
        write(&results, directory.path()).unwrap();
        let svg = std::fs::read_to_string(directory.path().join("apps.svg")).unwrap();
        assert!(["Redis GET", "1.00", "1.25"].iter().all(|word| svg.contains(&format!("\n{word}\n"))), "{svg}");
    }
}
