//! The house: what each layer of `overlay-user` may import, and that no files import each other in a circle.
//!
//! The order is that of docs/architecture.md. Code that is compiled for tests alone is not looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{Item, ItemUse, UseTree, visit::Visit};

/// From the bottom to the top: a layer imports those below it. Layers on one line do not know each other.
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

/// Above all layers: it parses and prints.
const TOP: &str = "cli";

/// Beside `apply`: where desired state comes from does not know how it is carried out.
const APART: (&str, &str) = ("sources", "apply");

/// A path from the crate's root, as `kernel::links::Link`.
type Names = Vec<String>;

/// One file of the crate.
#[derive(Default)]
struct File {
    /// Every path that it names, absolute.
    imports: BTreeSet<Names>,
    /// What it hands on under a name of its own: the name, and where that comes from.
    reexports: BTreeMap<String, Names>,
}

/// All files of a crate, by module.
type House = BTreeMap<Names, File>;

#[test]
fn layers_import_only_lower_layers() {
    let wrong = violations(&house("overlay-user"));
    assert!(wrong.is_empty(), "docs/architecture.md has the order of the layers\n{}", wrong.join("\n"));
}

#[test]
fn files_have_no_import_cycles() {
    let found: Vec<String> = ["overlay-common", "overlay-ebpf", "overlay-user", "xtask"]
        .into_iter()
        .flat_map(|name| circles(&house(name)).into_iter().map(move |circle| format!("{name}: {circle}")))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The checks of this file find what they look for.
#[test]
fn checks_detect_wrong_imports_and_cycles() {
    let file = |module: &str, code: &str| (names(module), read(&names(module), code));
    let wrong: House = [
        file("kernel", "mod links; pub use links::Link; pub struct Host;"),
        file("kernel::links", "use super::Host; use crate::plan::{change::Change, order}; pub struct Link(Host);"),
        file("kernel::routes", "fn route() -> crate::kernel::Link { super::links::Link::new() }"),
        file("plan", "use crate::kernel::Host; #[cfg(test)] use crate::cli::main;"),
    ]
    .into();
    assert_eq!(violations(&wrong), ["kernel::links imports plan::change::Change", "kernel::links imports plan::order"]);
    assert_eq!(circles(&wrong), [""; 0]);
    let circle: House = [
        file("plan::a", "use super::b::B; pub struct A;"),
        file("plan::b", "mod tests {} pub struct B(crate::plan::c::C);"),
        file("plan::c", "use crate::plan::A; pub struct C;"),
        file("plan", "mod a; mod b; mod c; pub use a::A;"),
    ]
    .into();
    assert_eq!(circles(&circle), ["plan::a, plan::b, plan::c"]);
}

fn names(path: &str) -> Names {
    path.split("::").map(str::to_owned).collect()
}

/// Reads every file of a crate.
fn house(name: &str) -> House {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src");
    let mut directories = vec![root.clone()];
    let mut house = House::new();
    while let Some(directory) = directories.pop() {
        let paths = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for path in paths.map(|entry| entry.expect("a directory that can be listed").path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = module(path.strip_prefix(&root).expect("a path below the root"));
                if !is_for_tests(&module) {
                    let code = fs::read_to_string(&path).expect("a source file");
                    house.insert(module.clone(), read(&module, &code));
                }
            }
        }
    }
    assert!(house.len() > 4, "{}: {} files", root.display(), house.len());
    house
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

/// Whether a file is compiled for tests, or for the fuzzer, alone.
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
    /// A path of the code, from the crate's root; `None`: it begins with another crate, or a local name.
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

    /// Every leaf of a tree of `use`: its path, and the name that it gets.
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
            // `pub use links::Link`: of a module below this one.
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

/// The layer of a path, and how high it is.
fn layer(path: &[String]) -> Option<(usize, &'static str)> {
    let is_in = |layer: &str| path.starts_with(&names(layer));
    if is_in(TOP) {
        return Some((LAYERS.len(), TOP));
    }
    let all = LAYERS.iter().enumerate().flat_map(|(height, layers)| layers.iter().map(move |layer| (height, *layer)));
    all.filter(|(_, layer)| is_in(layer)).min_by_key(|(height, _)| *height)
}

/// Imports of a higher layer, or of one beside it.
fn violations(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    for (module, file) in house {
        let Some((height, own)) = layer(module) else { continue };
        for path in file.imports.iter().chain(file.reexports.values()) {
            let Some((other_height, other)) = layer(path) else { continue };
            if own != other && (other_height >= height || (own, other) == APART) {
                wrong.push(format!("{} imports {}", module.join("::"), path.join("::")));
            }
        }
    }
    wrong
}

/// The file that a path leads to, past names that are handed on.
fn origin<'a>(house: &'a House, path: &[String]) -> Option<&'a Names> {
    let mut path = path.to_vec();
    // A name is handed on a few times at most.
    for _ in 0..8 {
        let (module, file) = (0..=path.len()).rev().find_map(|length| house.get_key_value(&path[..length]))?;
        let rest = &path[module.len()..];
        match rest.first().and_then(|name| file.reexports.get(name)) {
            Some(from) => path = [from.as_slice(), &rest[1..]].concat(),
            None => return Some(module),
        }
    }
    None
}

/// Groups of files each of which leads to all the others.
fn circles(house: &House) -> Vec<String> {
    let imports = |file: &File| file.imports.iter().filter_map(|path| origin(house, path)).collect::<BTreeSet<_>>();
    let arrows: BTreeMap<&Names, BTreeSet<&Names>> = house.iter().map(|(name, file)| (name, imports(file))).collect();
    let reach: BTreeMap<&Names, BTreeSet<&Names>> = arrows.keys().map(|name| (*name, reached(&arrows, name))).collect();
    let mut found = BTreeSet::new();
    for (name, others) in &reach {
        let mut circle: Vec<String> =
            others.iter().filter(|other| reach[*other].contains(name)).map(|name| name.join("::")).collect();
        circle.sort();
        if !circle.is_empty() {
            found.insert(circle.join(", "));
        }
    }
    found.into_iter().collect()
}

/// The files that the imports of one lead to.
fn reached<'a>(arrows: &BTreeMap<&'a Names, BTreeSet<&'a Names>>, from: &'a Names) -> BTreeSet<&'a Names> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(name) = next.pop() {
        next.extend(arrows[name].iter().copied().filter(|to| *to != name && reached.insert(*to)));
    }
    reached
}
