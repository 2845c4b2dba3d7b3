//! Permitted imports of each layer of `overlay-user`, and no import cycles.
//!
//! The order of the layers is in docs/architecture.md. Code for tests is not checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{Item, ItemUse, UseTree, visit::Visit};

/// Layers from bottom to top: a layer imports lower ones. Layers on one line do not import each other.
const LAYERS: [&[&str]; 10] = [
    &["sys"],
    &["kernel"],
    &["model"],
    &["api::types"],
    &["plan"],
    &["apply", "store"],
    &["sources"],
    &["observe"],
    &["daemon"],
    &["api"],
];

/// The top layer, which parses arguments and prints.
const TOP: &str = "cli";

/// A forbidden import of a lower layer: sources are independent of `apply`.
const FORBIDDEN: (&str, &str) = ("sources", "apply");

/// A path from the crate's root, as `kernel::links::Link`.
type Names = Vec<String>;

/// One file of the crate.
#[derive(Default)]
struct File {
    /// Absolute paths in the file.
    imports: BTreeSet<Names>,
    /// Re-exports: name and original path.
    reexports: BTreeMap<String, Names>,
}

/// All files of a crate, by module.
type Crate = BTreeMap<Names, File>;

#[test]
fn layers_import_only_lower_layers() {
    let wrong = violations(&files("overlay-user"));
    assert!(wrong.is_empty(), "docs/architecture.md has the order of the layers\n{}", wrong.join("\n"));
}

#[test]
fn files_have_no_import_cycles() {
    let found: Vec<String> = ["overlay-common", "overlay-ebpf", "overlay-user", "xtask"]
        .into_iter()
        .flat_map(|name| cycles(&files(name)).into_iter().map(move |cycle| format!("{name}: {cycle}")))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The checks detect violations.
#[test]
fn checks_detect_wrong_imports_and_cycles() {
    let file = |module: &str, code: &str| (names(module), read(&names(module), code));
    let wrong: Crate = [
        file("kernel", "mod links; pub use links::Link; pub struct Host;"),
        file("kernel::links", "use super::Host; use crate::plan::{change::Change, order}; pub struct Link(Host);"),
        file("kernel::routes", "fn route() -> crate::kernel::Link { super::links::Link::new() }"),
        file("plan", "use crate::kernel::Host; #[cfg(test)] use crate::cli::main;"),
    ]
    .into();
    assert_eq!(violations(&wrong), ["kernel::links imports plan::change::Change", "kernel::links imports plan::order"]);
    assert_eq!(cycles(&wrong), [""; 0]);
    let cycle: Crate = [
        file("plan::a", "use super::b::B; pub struct A;"),
        file("plan::b", "mod tests {} pub struct B(crate::plan::c::C);"),
        file("plan::c", "use crate::plan::A; pub struct C;"),
        file("plan", "mod a; mod b; mod c; pub use a::A;"),
    ]
    .into();
    assert_eq!(cycles(&cycle), ["plan::a, plan::b, plan::c"]);
}

fn names(path: &str) -> Names {
    path.split("::").map(str::to_owned).collect()
}

/// Reads every file of a crate.
fn files(name: &str) -> Crate {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src");
    let mut directories = vec![root.clone()];
    let mut files = Crate::new();
    while let Some(directory) = directories.pop() {
        let paths = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for path in paths.map(|entry| entry.expect("a directory that can be listed").path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = module(path.strip_prefix(&root).expect("a path below the root"));
                if !is_for_tests(&module) {
                    let code = fs::read_to_string(&path).expect("a source file");
                    files.insert(module.clone(), read(&module, &code));
                }
            }
        }
    }
    assert!(files.len() > 4, "{}: {} files", root.display(), files.len());
    files
}

/// The module of a file.
fn module(path: &Path) -> Names {
    let path = path.with_extension("");
    let mut names: Names = path.iter().map(|name| name.to_str().expect("a name in ASCII").to_owned()).collect();
    if names.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        names.pop();
    }
    names
}

/// Whether a file is compiled only for tests or the fuzzer.
fn is_for_tests(module: &[String]) -> bool {
    module.iter().any(|name| name.ends_with("tests") || name == "fuzz" || name == "testing")
}

fn read(module: &[String], code: &str) -> File {
    let mut reader = Reader { module, file: File::default() };
    reader.visit_file(&syn::parse_file(code).unwrap_or_else(|error| panic!("{}: {error}", module.join("::"))));
    reader.file
}

/// Collects the paths of one file.
struct Reader<'a> {
    module: &'a [String],
    file: File,
}

impl Reader<'_> {
    /// Absolute path within the crate; `None`: it begins with another crate or a local name.
    fn absolute(&self, path: &[String]) -> Option<Names> {
        let mut module = self.module.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    module.pop();
                    rest = &rest[1..];
                }
            }
            _ => return None,
        }
        Some([module, rest.to_vec()].concat())
    }

    /// Leaves of a `use` tree: path and bound name.
    fn leaves(tree: &UseTree, path: &Names, found: &mut Vec<(Names, String)>) {
        let with = |name: &syn::Ident| [path.as_slice(), &[name.to_string()]].concat();
        match tree {
            UseTree::Path(inner) => Self::leaves(&inner.tree, &with(&inner.ident), found),
            UseTree::Name(name) if name.ident == "self" => {
                found.push((path.clone(), path.last().cloned().unwrap_or_default()));
            }
            UseTree::Name(name) => found.push((with(&name.ident), name.ident.to_string())),
            UseTree::Rename(name) => found.push((with(&name.ident), name.rename.to_string())),
            UseTree::Glob(_) => found.push((path.clone(), "*".to_owned())),
            UseTree::Group(group) => group.items.iter().for_each(|tree| Self::leaves(tree, path, found)),
        }
    }
}

fn is_test_item(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute.meta.require_list().ok().filter(|list| list.path.is_ident("cfg"));
        list.is_some_and(|list| {
            let condition = list.tokens.to_string();
            condition.contains("test") || condition.contains("fuzz")
        })
    })
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !is_test_item(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut found = Vec::new();
        Self::leaves(&item.tree, &Names::new(), &mut found);
        for (path, name) in found {
            // `pub use links::Link`: relative to a child module.
            let below = matches!(item.vis, syn::Visibility::Public(_) | syn::Visibility::Restricted(_));
            let path = match self.absolute(&path) {
                Some(path) => path,
                None if below => [self.module, &path].concat(),
                None => continue,
            };
            if below {
                self.file.reexports.insert(name, path);
            } else {
                self.file.imports.insert(path);
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let path_names: Names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if path_names.len() > 1
            && let Some(path) = self.absolute(&path_names)
        {
            self.file.imports.insert(path);
        }
        syn::visit::visit_path(self, path);
    }
}

/// Height and name of a path's layer.
fn layer(path: &[String]) -> Option<(usize, &'static str)> {
    let is_in = |layer: &str| path.starts_with(&names(layer));
    if is_in(TOP) {
        return Some((LAYERS.len(), TOP));
    }
    let all = LAYERS.iter().enumerate().flat_map(|(height, layers)| layers.iter().map(move |layer| (height, *layer)));
    all.filter(|(_, layer)| is_in(layer)).min_by_key(|(height, _)| *height)
}

/// Imports of a higher layer, or of a layer at the same height.
fn violations(files: &Crate) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, file) in files {
        let Some((height, own)) = layer(module) else { continue };
        for path in file.imports.iter().chain(file.reexports.values()) {
            let Some((other_height, other)) = layer(path) else { continue };
            if own != other && (other_height >= height || (own, other) == FORBIDDEN) {
                wrong.push(format!("{} imports {}", module.join("::"), path.join("::")));
            }
        }
    }
    wrong
}

/// The file that defines a path, after re-exports.
fn origin<'a>(files: &'a Crate, path: &[String]) -> Option<&'a Names> {
    let mut path = path.to_vec();
    // Limits chains of re-exports.
    for _ in 0..8 {
        let (module, file) = (0..=path.len()).rev().find_map(|length| files.get_key_value(&path[..length]))?;
        let rest = &path[module.len()..];
        match rest.first().and_then(|name| file.reexports.get(name)) {
            Some(from) => path = [from.as_slice(), &rest[1..]].concat(),
            None => return Some(module),
        }
    }
    None
}

/// Groups of files that import each other, directly or indirectly.
fn cycles(files: &Crate) -> Vec<String> {
    let imports = |file: &File| file.imports.iter().filter_map(|path| origin(files, path)).collect::<BTreeSet<_>>();
    let edges: BTreeMap<&Names, BTreeSet<&Names>> = files.iter().map(|(name, file)| (name, imports(file))).collect();
    let reachable_from: BTreeMap<&Names, BTreeSet<&Names>> =
        edges.keys().map(|name| (*name, reachable(&edges, name))).collect();
    let mut found = BTreeSet::new();
    for (name, others) in &reachable_from {
        let mut cycle: Vec<String> =
            others.iter().filter(|other| reachable_from[*other].contains(name)).map(|name| name.join("::")).collect();
        cycle.sort();
        if !cycle.is_empty() {
            found.insert(cycle.join(", "));
        }
    }
    found.into_iter().collect()
}

/// Files that a file imports, directly or indirectly.
fn reachable<'a>(edges: &BTreeMap<&'a Names, BTreeSet<&'a Names>>, from: &'a Names) -> BTreeSet<&'a Names> {
    let (mut reachable, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(name) = next.pop() {
        next.extend(edges[name].iter().copied().filter(|to| *to != name && reachable.insert(*to)));
    }
    reachable
}
