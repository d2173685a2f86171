//! A guest's RAM: regions, and what tracks the writes to them.
//!
//! A pagelift_ram is a description: each job that is made of it makes its own memory and trackers when
//! it starts.

use std::ffi::{c_char, c_void};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagelift_engine::dirty::{Combined, DirtySource, PagemapTracker, TrackedRange};
use pagelift_engine::memory::{GuestMemory, Layout, MappedMemory, RegionFile};
use pagelift_engine::sys::Mappings;
use pagelift_engine::units::{ByteCount, PAGE_BYTES, PageCount};
use pagelift_engine::{FileMemory, GuestProperty, GuestRam, memory};

use crate::abi::{self, Versioned};
use crate::call::Caller;
use crate::error::{Code, Error, Fault, text};
use crate::handle::{self, Handle};
use crate::tracking::Tracking;

/// A description of a guest's RAM.
#[derive(Debug)]
pub struct Ram(());

impl Handle for Ram {
    type Body = Mutex<Description>;
    const TAG: u32 = 0x706c_7261;
}

/// One contiguous piece of guest memory. Both sides describe the same regions, in the same order.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Region {
    /// Bytes of this structure, as PAGELIFT_INIT sets it.
    pub struct_size: usize,
    /// The name both sides know it by, 1 to 255 bytes of UTF-8, unique.
    pub name: *const c_char,
    /// Its length: whole pages of page_bytes.
    pub bytes: u64,
    /// Bytes of one page of the memory behind it: 4096, or a huge page's size. 0 means 4096.
    pub page_bytes: u64,
    /// Where the guest has it. If it is not 0, it must be the same on both sides.
    pub guest_address: u64,
    /// Where this process has it mapped. May be null for memory in a file on a target, or if page
    /// tables are not what tracks its writes.
    pub address: *mut c_void,
    /// 1: in the file `fd`, which is mapped as shared memory. 0: private anonymous memory.
    pub in_file: u32,
    /// A memfd, or a file on tmpfs or hugetlbfs, for reading and writing. The library keeps its own copy.
    pub fd: i32,
    /// Byte of the file at which it begins: whole pages.
    pub offset: u64,
}

// SAFETY: numbers and pointers, all of which may be zero.
unsafe impl Versioned for Region {
    const LEAST: usize = size_of::<Self>();
}

/// Where a region is.
#[derive(Clone, Debug)]
enum Place {
    File { fd: Arc<OwnedFd>, offset: u64 },
    Private,
}

#[derive(Clone, Debug)]
struct KnownRegion {
    region: memory::Region,
    guest_address: u64,
    /// Where it is mapped; 0: nowhere.
    address: u64,
    place: Place,
}

/// What a handle describes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Description {
    regions: Vec<KnownRegion>,
    tracking: Vec<Tracking>,
}

impl Description {
    /// The regions in order.
    pub(crate) fn layout(&self) -> Result<Layout, Fault> {
        let regions = self.regions.iter().map(|known| known.region.clone());
        Layout::new(regions.collect()).map_err(|error| Fault::new(Code::Memory, error))
    }

    /// What must be the same on the other side.
    pub(crate) fn properties(&self) -> impl Iterator<Item = GuestProperty> {
        let stated = self.regions.iter().filter(|known| known.guest_address != 0);
        stated.map(|known| {
            let name = format!("guest address of {}", known.region.name);
            GuestProperty::new(name, format!("{:#x}", known.guest_address))
        })
    }

    /// The pages of each region, and where they are mapped.
    pub(crate) fn mapped(&self, layout: &Layout) -> Vec<TrackedRange> {
        let range = |(number, known): (usize, &KnownRegion)| TrackedRange {
            address: known.address,
            range: layout.region_range(number),
        };
        self.regions.iter().enumerate().map(range).collect()
    }

    /// The memory.
    pub(crate) fn memory(&self) -> Result<Arc<dyn GuestMemory>, Fault> {
        let layout = self.layout()?;
        let mut files = Vec::new();
        for known in &self.regions {
            if let Place::File { fd, offset } = &known.place {
                let copy = fd.try_clone();
                let file = copy.map_err(|error| Fault::new(Code::System, error))?;
                files.push(RegionFile {
                    file: File::from(file),
                    offset: *offset,
                });
            }
        }
        if files.len() == self.regions.len() {
            let memory = FileMemory::new(layout, files);
            return Ok(Arc::new(
                memory.map_err(|error| Fault::new(Code::Memory, error))?,
            ));
        }
        if !files.is_empty() {
            let text = "regions in files and private ones do not go together: put all into files";
            return Err(Fault::argument(text));
        }
        self.check_private(&layout)?;
        let starts = self.regions.iter();
        let starts =
            starts.map(|known| std::ptr::with_exposed_provenance_mut(known.address as usize));
        // SAFETY: the regions are mapped as they must be now, and pagelift_ram_add makes the caller
        // promise that they stay so. The addresses are aligned, and there is one for each.
        Ok(Arc::new(unsafe {
            MappedMemory::new(layout, starts.collect())
        }))
    }

    /// That what is said to be private memory is.
    fn check_private(&self, layout: &Layout) -> Result<(), Fault> {
        let failed = |error| Fault::new(Code::System, error);
        let mut mappings = Mappings::open(None).map_err(failed)?;
        for (known, mapped) in self.regions.iter().zip(self.mapped(layout)) {
            let addresses = mapped.address..mapped.address.saturating_add(mapped.range.bytes().0);
            if !mappings.are_private_anonymous(addresses).map_err(failed)? {
                return Err(Fault::argument(format!(
                    "the region {} is not mapped as private anonymous memory: for a file, give it",
                    known.region.name
                )));
            }
        }
        Ok(())
    }

    /// The memory, and what tracks the writes to it: the page tables, if nothing else is named.
    pub(crate) fn ram(&self, caller: &Arc<Caller>) -> Result<GuestRam, Fault> {
        let memory = self.memory()?;
        let layout = memory.layout().clone();
        let by_default = [Tracking::PageTables];
        let tracking = match &*self.tracking {
            [] => &by_default[..],
            named => named,
        };
        if let Some(name) = self.without_bitmap() {
            return Err(Fault::new(
                Code::DirtyTracking,
                format!("nothing tracks the writes to the region {name}: give it a bitmap too"),
            ));
        }
        let mut all: Option<Box<dyn DirtySource>> = None;
        for one in tracking {
            let one = one.source(self, &layout, caller)?;
            all = Some(match all {
                Some(others) => Box::new(Combined::new(others, one)),
                None => one,
            });
        }
        match all {
            Some(dirty) => Ok(GuestRam::new(memory, dirty)),
            None => Err(Fault::new(Code::DirtyTracking, "nothing tracks the writes")),
        }
    }

    /// A region that has no bitmap, if bitmaps are all that tracks writes.
    fn without_bitmap(&self) -> Option<&str> {
        let regions = self.tracking.iter().map(Tracking::only_region);
        let regions: Vec<usize> = regions.collect::<Option<_>>()?;
        if regions.is_empty() {
            return None;
        }
        let mut all = self.regions.iter().enumerate();
        let (_, missing) = all.find(|(number, _)| !regions.contains(number))?;
        Some(&missing.region.name)
    }

    /// What tracks writes by the page tables of this process.
    pub(crate) fn page_tables(&self, layout: &Layout) -> Result<Box<dyn DirtySource>, Fault> {
        let mapped = self.mapped(layout);
        if mapped.iter().any(|mapped| mapped.address == 0) {
            return Err(Fault::new(
                Code::DirtyTracking,
                "a region has no address in this process, so page tables do not show the writes to \
                 it: give the address, or another way to track them",
            ));
        }
        let tracker = PagemapTracker::of_this_process(mapped);
        Ok(Box::new(
            tracker.map_err(|error| Fault::new(Code::DirtyTracking, error))?,
        ))
    }
}

/// A description that nobody else changes meanwhile.
pub(crate) fn lock(ram: &Mutex<Description>) -> MutexGuard<'_, Description> {
    ram.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A description without a region. Free it with pagelift_ram_free.
///
/// # Threads
/// From any thread.
#[unsafe(no_mangle)]
pub extern "C" fn pagelift_ram_new() -> *mut Ram {
    handle::new(Mutex::default())
}

/// Adds a region. All are in files, or none is.
///
/// # Errors
/// PAGELIFT_CODE_ARGUMENT when sizes and places are no whole pages, a name is no name or is there
/// already, or `fd` is no descriptor.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// Private memory stays mapped at `address`, in full, readable and writable, until every job that is made
/// of this description has been freed. `region` and its name can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_add(ram: *mut Ram, region: *const Region) -> Code {
    let add = |body: &Mutex<Description>| {
        // SAFETY: the caller's promise.
        let known = unsafe { known(abi::read(region)?)? };
        let mut description = lock(body);
        description.regions.push(known);
        let layout = description.layout();
        if let Err(fault) = layout {
            description.regions.pop();
            return Err(Fault::argument(fault.text));
        }
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(ram.cast_const(), add) }
}

/// Checks a region, and keeps a copy of its file.
///
/// # Safety
/// The name can be read.
unsafe fn known(region: Region) -> Result<KnownRegion, Fault> {
    // SAFETY: the caller's promise.
    let name = unsafe { text(region.name, "the region's name")? }.to_owned();
    let page_bytes = match region.page_bytes {
        0 => PAGE_BYTES as u64,
        bytes if bytes.is_power_of_two() && bytes >= PAGE_BYTES as u64 => bytes,
        bytes => return Err(Fault::argument(format!("{name}: pages of {bytes} bytes"))),
    };
    let address = region.address.expose_provenance() as u64;
    for (what, value) in [
        ("length", region.bytes),
        ("address", address),
        ("offset", region.offset),
    ] {
        if value % page_bytes != 0 {
            let text = format!("{name}: its {what} {value:#x} is no multiple of {page_bytes}");
            return Err(Fault::argument(text));
        }
    }
    let place = match region.in_file {
        0 if address == 0 => return Err(Fault::argument(format!("{name}: its address is null"))),
        0 => Place::Private,
        1 if region.fd < 0 => return Err(Fault::argument(format!("{name}: fd {}", region.fd))),
        1 => {
            // SAFETY: not negative; if it is no descriptor the kernel says so.
            let fd = unsafe { BorrowedFd::borrow_raw(region.fd) };
            let copy = fd.try_clone_to_owned();
            let bad = |error| Fault::argument(format!("{name}: fd {}: {error}", region.fd));
            Place::File {
                fd: Arc::new(copy.map_err(bad)?),
                offset: region.offset,
            }
        }
        other => return Err(Fault::argument(format!("{name}: in_file is {other}"))),
    };
    Ok(KnownRegion {
        region: memory::Region {
            name,
            pages: PageCount(region.bytes / PAGE_BYTES as u64),
            backing_page: ByteCount(page_bytes),
        },
        guest_address: region.guest_address,
        address,
        place,
    })
}

/// Adds a way in which writes are tracked. Several are combined: each sees other writes.
///
/// # Safety
/// As for [`handle::with`].
pub(crate) unsafe fn track(
    ram: *mut Ram,
    tracking: impl FnOnce(&Description) -> Result<Tracking, Fault>,
) -> Code {
    let add = |body: &Mutex<Description>| {
        let mut description = lock(body);
        let tracking = tracking(&description)?;
        description.tracking.push(tracking);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { handle::with(ram.cast_const(), add) }
}

/// Writes the last error of `ram` to `error`.
///
/// # Threads
/// From any thread.
///
/// # Safety
/// `error` was set up by PAGELIFT_INIT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_last_error(ram: *const Ram, error: *mut Error) -> Code {
    // SAFETY: the caller's promise.
    unsafe { handle::last_error(ram, error) }
}

/// Frees a description, or nothing if it is null. Jobs that were made of it have their own.
///
/// # Threads
/// From any thread, when no other call uses the description.
///
/// # Safety
/// No other call uses it, now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pagelift_ram_free(ram: *mut Ram) -> Code {
    // SAFETY: the caller's promise.
    unsafe { handle::free(ram, |_| Ok(())) }
}
