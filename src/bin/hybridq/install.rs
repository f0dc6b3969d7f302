//! `hybridq install`: headers, libraries, pkg-config and CMake files under a prefix.
#![forbid(unsafe_code)]

use std::path::{Component, Path, PathBuf};

use clap::Args;
use hybridq::{Error, Result};

#[derive(Args)]
pub struct Arguments {
    /// Folder to install under; made if missing
    #[arg(long)]
    prefix: PathBuf,
    /// Folder of the libraries, relative to the prefix
    #[arg(long, default_value = "lib")]
    libdir: PathBuf,
    /// Folder of the headers, relative to the prefix
    #[arg(long, default_value = "include")]
    includedir: PathBuf,
    /// Folder with libhybridq.so and libhybridq.a [default: that of this program]
    #[arg(long)]
    from: Option<PathBuf>,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The number in the SONAME (build.rs).
const ABI: u32 = hybridq::capi::HYBRIDQ_ABI_VERSION;
/// What a program that links the static library needs besides.
const STATIC_LIBS: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl";

const HEADER: &str = include_str!("../../../include/hybridq.h");
const CPP_HEADER: &str = include_str!("../../../include/hybridq.hpp");
const CPP_MODELS_HEADER: &str = include_str!("../../../include/hybridq_models.hpp");

pub fn run(arguments: &Arguments) -> Result<u8> {
    if !cfg!(target_os = "linux") {
        let message = "install knows the names of ELF libraries only: copy include/ and the library by hand";
        return Err(Error::Unsupported(message.into()));
    }
    for (flag, folder) in [("--libdir", &arguments.libdir), ("--includedir", &arguments.includedir)] {
        if folder.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(Error::invalid(flag, "a folder below the prefix", folder.display()));
        }
    }
    let (shared, archive) = find_libraries(arguments.from.as_deref())?;
    let (lib, include) = (arguments.prefix.join(&arguments.libdir), arguments.prefix.join(&arguments.includedir));
    let (pkgconfig, cmake) = (lib.join("pkgconfig"), lib.join("cmake/hybridq"));
    for folder in [&include, &pkgconfig, &cmake] {
        std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    }
    let full_name = format!("libhybridq.so.{VERSION}");
    let soname = format!("libhybridq.so.{ABI}");
    copy(&shared, &lib.join(&full_name))?;
    link(&full_name, &lib.join(&soname))?;
    link(&soname, &lib.join("libhybridq.so"))?;
    copy(&archive, &lib.join("libhybridq.a"))?;
    write(&include.join("hybridq.h"), HEADER)?;
    write(&include.join("hybridq.hpp"), CPP_HEADER)?;
    write(&include.join("hybridq_models.hpp"), CPP_MODELS_HEADER)?;
    let places = Places::new(arguments);
    write(&pkgconfig.join("hybridq.pc"), &places.pkg_config())?;
    write(&pkgconfig.join("hybridq-static.pc"), &places.pkg_config_static())?;
    write(&cmake.join("hybridqConfig.cmake"), &places.cmake_config())?;
    write(&cmake.join("hybridqConfigVersion.cmake"), &cmake_version())?;
    let path = pkgconfig.display();
    crate::write_stdout(&format!(
        "installed  {}\ntry        cc program.c $(PKG_CONFIG_PATH={path} pkg-config --cflags --libs hybridq)\n",
        arguments.prefix.display()
    ))?;
    Ok(crate::DONE)
}

/// The shared library and the archive: in `from`, or where cargo puts them with this program. Cargo copies a library beside
/// a program only when asked for it by name; the one in `deps` is always that of the last build.
fn find_libraries(from: Option<&Path>) -> Result<(PathBuf, PathBuf)> {
    let folders = match from {
        Some(folder) => vec![folder.to_path_buf()],
        None => {
            let program = std::env::current_exe().map_err(|error| Error::io("this program", error))?;
            let beside = program.parent().unwrap_or(Path::new(".")).to_path_buf();
            vec![beside.join("deps"), beside]
        }
    };
    for folder in &folders {
        let pair = (folder.join("libhybridq.so"), folder.join("libhybridq.a"));
        if pair.0.is_file() && pair.1.is_file() {
            return Ok(pair);
        }
    }
    let looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let message =
        format!("no libhybridq.so and libhybridq.a here (`cargo build --release` makes them): {}", looked.join(", "));
    Err(Error::Unsupported(message))
}

/// Replaces `to` in one step: a program that has the old library mapped keeps it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let unfinished = to.with_extension("new");
    std::fs::copy(from, &unfinished).map_err(|error| Error::io(from, error))?;
    std::fs::rename(&unfinished, to).map_err(|error| Error::io(to, error))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| Error::io(path, error))
}

#[cfg(unix)]
fn link(target: &str, path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(path, error)),
        _ => {}
    }
    std::os::unix::fs::symlink(target, path).map_err(|error| Error::io(path, error))
}

#[cfg(not(unix))]
fn link(_target: &str, path: &Path) -> Result<()> {
    Err(Error::Unsupported(format!("{}: no symbolic links here", path.display())))
}

/// Paths as the package files need them: relative to themselves, so that the whole prefix can be moved.
struct Places {
    libdir: String,
    includedir: String,
    /// From `libdir` up to the prefix: "..", once for each of its folders.
    up: String,
}

impl Places {
    fn new(arguments: &Arguments) -> Self {
        let slashes = |path: &Path| {
            let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
            parts.join("/")
        };
        Places {
            libdir: slashes(&arguments.libdir),
            includedir: slashes(&arguments.includedir),
            up: vec![".."; arguments.libdir.components().count()].join("/"),
        }
    }

    fn pkg_config_head(&self, name: &str, what: &str) -> String {
        let Places { libdir, includedir, up } = self;
        format!(
            "prefix=${{pcfiledir}}/../{up}\nlibdir=${{prefix}}/{libdir}\nincludedir=${{prefix}}/{includedir}\n\n\
             Name: {name}\nDescription: Train and run ternary (1.58-bit) language models{what}\nVersion: {VERSION}\n\
             Cflags: -I${{includedir}}\n"
        )
    }

    fn pkg_config(&self) -> String {
        let head = self.pkg_config_head("hybridq", "");
        format!("{head}Libs: -L${{libdir}} -lhybridq\nLibs.private: {STATIC_LIBS}\n")
    }

    fn pkg_config_static(&self) -> String {
        let head = self.pkg_config_head("hybridq-static", ", static library");
        format!("{head}Libs: ${{libdir}}/libhybridq.a {STATIC_LIBS}\n")
    }

    fn cmake_config(&self) -> String {
        let Places { libdir, includedir, up } = self;
        let libraries = STATIC_LIBS.replace("-l", "").replace(' ', ";");
        format!(
            "# Targets: hybridq::hybridq (shared), hybridq::hybridq_static.\n\
             get_filename_component(_hybridq_prefix \"${{CMAKE_CURRENT_LIST_DIR}}/../../{up}\" ABSOLUTE)\n\
             if(NOT TARGET hybridq::hybridq)\n\
             \x20 add_library(hybridq::hybridq SHARED IMPORTED)\n\
             \x20 set_target_properties(hybridq::hybridq PROPERTIES\n\
             \x20   IMPORTED_LOCATION \"${{_hybridq_prefix}}/{libdir}/libhybridq.so.{VERSION}\"\n\
             \x20   IMPORTED_SONAME \"libhybridq.so.{ABI}\"\n\
             \x20   INTERFACE_INCLUDE_DIRECTORIES \"${{_hybridq_prefix}}/{includedir}\")\n\
             \x20 add_library(hybridq::hybridq_static STATIC IMPORTED)\n\
             \x20 set_target_properties(hybridq::hybridq_static PROPERTIES\n\
             \x20   IMPORTED_LOCATION \"${{_hybridq_prefix}}/{libdir}/libhybridq.a\"\n\
             \x20   INTERFACE_INCLUDE_DIRECTORIES \"${{_hybridq_prefix}}/{includedir}\"\n\
             \x20   INTERFACE_LINK_LIBRARIES \"{libraries}\")\n\
             endif()\n\
             set(hybridq_VERSION {VERSION})\n\
             set(hybridq_FOUND TRUE)\n\
             unset(_hybridq_prefix)\n"
        )
    }
}

/// Before 1.0 a minor version may break: only the same one is compatible.
fn cmake_version() -> String {
    let minor = VERSION.rsplit_once('.').map_or(VERSION, |(minor, _)| minor);
    format!(
        "set(PACKAGE_VERSION \"{VERSION}\")\n\
         if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION\n\
         \x20  OR NOT \"${{PACKAGE_FIND_VERSION}}.\" MATCHES \"^({minor}\\\\.|{major}\\\\.$|\\\\.$)\")\n\
         \x20 set(PACKAGE_VERSION_COMPATIBLE FALSE)\n\
         else()\n\
         \x20 set(PACKAGE_VERSION_COMPATIBLE TRUE)\n\
         \x20 if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)\n\
         \x20   set(PACKAGE_VERSION_EXACT TRUE)\n\
         \x20 endif()\n\
         endif()\n",
        minor = minor.replace('.', "\\\\."),
        major = minor.split('.').next().unwrap_or(minor),
    )
}
