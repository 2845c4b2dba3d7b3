//! Changes of tables: entries of BPF maps, devices and table entries of the kernel.
//!
//! `tables!` declares a set of tables, in the order in which their entries are written. Planning, applying and auditing
//! are derived from the declaration.

use std::{collections::BTreeMap, fmt::Debug};

/// A change of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<K, V> {
    /// Key of the entry.
    pub key: K,
    /// Current value; `None`: missing or unknown.
    pub old: Option<V>,
    /// New value; `None`: the entry is removed.
    pub new: Option<V>,
}

/// A table of a set.
pub trait Table: Sized + 'static {
    /// The set of tables.
    type Set;
    /// The changes of the set.
    type Changes;
    /// Key of an entry.
    type Key: Ord + Clone + Debug;
    /// Value of an entry.
    type Value: PartialEq + Clone + Debug;

    /// The entries.
    fn rows(set: &Self::Set) -> &BTreeMap<Self::Key, Self::Value>;
    /// The entries, mutable.
    fn rows_mut(set: &mut Self::Set) -> &mut BTreeMap<Self::Key, Self::Value>;
    /// The changes of this table.
    fn changes_mut(changes: &mut Self::Changes) -> &mut Vec<ChangeOf<Self>>;
}

/// A change in one table.
pub(crate) type ChangeOf<T> = Change<<T as Table>::Key, <T as Table>::Value>;

/// The changes that turn `old` into `new`: first the written entries, then the removed ones, each in key order.
pub(crate) fn between<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> Vec<Change<K, V>> {
    between_existing(old, new, |_, _| true)
}

/// [`between`], without the entries of `old` for which `exists` is false.
pub(crate) fn between_existing<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    exists: impl Fn(&K, &V) -> bool,
) -> Vec<Change<K, V>> {
    let written = new.iter().filter_map(|(key, value)| match old.get(key).filter(|old| exists(key, old)) {
        Some(known) if known == value => None,
        known => Some(Change { key: key.clone(), old: known.cloned(), new: Some(value.clone()) }),
    });
    written.chain(removed(old, |key, value| !new.contains_key(key) && exists(key, value))).collect()
}

/// The changes that remove `which` entries.
pub(crate) fn removed<K: Clone, V: Clone>(
    rows: &BTreeMap<K, V>,
    which: impl Fn(&K, &V) -> bool,
) -> impl Iterator<Item = Change<K, V>> {
    let gone = rows.iter().filter(move |(key, value)| which(key, value));
    gone.map(|(key, value)| Change { key: key.clone(), old: Some(value.clone()), new: None })
}

/// Declares a set of tables and its changes. `kind` is a trait that each table implements besides [`Table`]; `visitor`
/// is the name of the trait that visits each table. `beside` is a field of the set that is not a table. All items have
/// the visibility of the set.
macro_rules! tables {
    (
        $(#[$set_meta:meta])* $vis:vis set $set:ident $(beside $(#[$beside_meta:meta])* $beside:ident: $beside_type:ty)?;
        $(#[$changes_meta:meta])* changes $changes:ident;
        kind $kind:ident;
        $(#[$visitor_meta:meta])* visitor $visitor:ident;
        $($(#[$meta:meta])* $field:ident: $table:ident($key:ty => $value:ty),)*
    ) => {
        $(#[$set_meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        $vis struct $set {
            $($(#[$meta])* $vis $field: std::collections::BTreeMap<$key, $value>,)*
            $($(#[$beside_meta])* $vis $beside: $beside_type,)?
        }

        $(#[$changes_meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        $vis struct $changes {
            $($(#[$meta])* $vis $field: Vec<$crate::plan::change::Change<$key, $value>>,)*
        }

        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug)]
            $vis enum $table {}

            impl $crate::plan::change::Table for $table {
                type Set = $set;
                type Changes = $changes;
                type Key = $key;
                type Value = $value;

                fn rows(set: &$set) -> &std::collections::BTreeMap<$key, $value> {
                    &set.$field
                }

                fn rows_mut(set: &mut $set) -> &mut std::collections::BTreeMap<$key, $value> {
                    &mut set.$field
                }

                fn changes_mut(changes: &mut $changes) -> &mut Vec<$crate::plan::change::ChangeOf<Self>> {
                    &mut changes.$field
                }
            }
        )*

        $(#[$visitor_meta])*
        $vis trait $visitor {
            /// Visits the changes of one table.
            fn table<T: $kind>(&mut self, changes: &[$crate::plan::change::ChangeOf<T>]);
        }

        impl $set {
            /// Number of entries.
            #[must_use]
            $vis fn count(&self) -> usize {
                0 $(+ self.$field.len())*
            }
        }

        impl $changes {
            /// Whether there are no changes.
            #[must_use]
            #[allow(dead_code, reason = "not used for every set of tables")]
            $vis fn is_empty(&self) -> bool {
                true $(&& self.$field.is_empty())*
            }

            /// Visits the changes of each table, in the order of the declaration.
            $vis fn visit<V: $visitor>(&self, visitor: &mut V) {
                $(visitor.table::<$table>(&self.$field);)*
            }

            /// Visits the changes of each table, in reverse order.
            #[allow(dead_code, reason = "kernel objects have another order")]
            $vis fn visit_reversed<V: $visitor>(&self, visitor: &mut V) {
                let tables: &[fn(&Self, &mut V)] =
                    &[$(|changes, visitor| visitor.table::<$table>(&changes.$field)),*];
                tables.iter().rev().for_each(|table| table(self, visitor));
            }
        }
    };
}
pub(crate) use tables;
