//! The place of a program among the programs and filters of other owners at one hook.
//!
//! A packet that a filter of another owner would mirror, police or drop must reach that filter, and a packet that it lets
//! through may be forwarded. So a forwarding program is the last one: after the other TCX programs, or, where there are
//! filters, after those.

use crate::kernel::{Filter, Ingress};

/// Priority of a forwarding program as a filter: the last one.
pub(crate) const LAST: u16 = u16::MAX;
/// Priority of a checking program as a filter: the first one (0 lets the kernel choose).
pub(crate) const FIRST: u16 = 1;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// As a TCX link.
    Tcx,
    /// As a filter of the device's clsact or ingress qdisc.
    Filter,
}

/// A position among the programs or filters of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Ahead of all others.
    First,
    /// After all others.
    Last,
}

impl End {
    /// The priority of a filter at this end.
    pub(crate) const fn priority(self) -> u16 {
        match self {
            Self::First => FIRST,
            Self::Last => LAST,
        }
    }
}

/// The place of a program, or the filter because of which there is none. `has_tcx`: the kernel has TCX.
///
/// A checking program is a TCX program, because these run ahead of all filters.
///
/// # Errors
/// The filter in the way.
pub(crate) fn place(end: End, ingress: &Ingress, has_tcx: bool) -> Result<Place, &Filter> {
    if has_tcx && (end == End::First || ingress.others().next().is_none()) {
        return Ok(Place::Tcx);
    }
    // The filters of a shared block belong to several interfaces. Two classifiers cannot have one priority, and the
    // order of filters with one priority is not defined.
    let is_in_the_way = |filter: &&Filter| {
        let is_outside = match end {
            End::First => filter.priority <= FIRST,
            End::Last => filter.priority == LAST,
        };
        filter.shared || filter.chain == 0 && is_outside
    };
    ingress.others().find(is_in_the_way).map_or(Ok(Place::Filter), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(priority: u16) -> Filter {
        Filter { priority, kind: "u32".into(), ..Filter::default() }
    }

    fn own(priority: u16) -> Filter {
        Filter { priority, kind: "bpf".into(), name: "ovl_port_in".into(), ..Filter::default() }
    }

    fn ingress(filters: &[Filter]) -> Ingress {
        Ingress { filters: filters.to_vec(), ..Ingress::default() }
    }

    #[test]
    fn forwarding_program_is_last() {
        assert_eq!((End::First.priority(), End::Last.priority()), (1, 65_535));
        for (filters, tcx, clsact) in [
            (vec![], Place::Tcx, Place::Filter),
            (vec![own(LAST)], Place::Tcx, Place::Filter),
            (vec![filter(20)], Place::Filter, Place::Filter),
            (vec![filter(20), filter(LAST - 1), own(LAST)], Place::Filter, Place::Filter),
            (vec![Filter { chain: 5, ..filter(LAST) }], Place::Filter, Place::Filter),
        ] {
            assert_eq!(place(End::Last, &ingress(&filters), true), Ok(tcx), "{filters:?}");
            assert_eq!(place(End::Last, &ingress(&filters), false), Ok(clsact), "{filters:?}");
        }
    }

    #[test]
    fn checking_program_is_first() {
        let filters = [filter(FIRST), Filter { shared: true, ..filter(20) }];
        for filter in filters {
            let found = ingress(std::slice::from_ref(&filter));
            assert_eq!(place(End::First, &found, true), Ok(Place::Tcx));
            assert_eq!(place(End::First, &found, false), Err(&filter));
        }
        assert_eq!(place(End::First, &ingress(&[filter(2), own(FIRST)]), false), Ok(Place::Filter));
    }

    #[test]
    fn program_that_cannot_be_last_has_no_place() {
        let other_program = Filter { name: "mirror".into(), ..own(LAST) };
        for other in [filter(LAST), Filter { shared: true, ..filter(20) }, other_program] {
            for has_tcx in [true, false] {
                let found = ingress(&[own(LAST), other.clone()]);
                assert_eq!(place(End::Last, &found, has_tcx), Err(&other));
            }
        }
    }
}
