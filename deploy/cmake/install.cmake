# What `cmake --install` lays down. Headers keep their paths from the root
# ("core/types.h", "iovad/v1/types.pb.h") below include/iovad, so that they
# cannot meet anybody else's.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(iovad_headers ${CMAKE_INSTALL_INCLUDEDIR}/iovad)
set(iovad_package ${CMAKE_INSTALL_LIBDIR}/cmake/iovad)

# The server is a program, not a library for others.
foreach(library IN ITEMS proto core client relay c shared)
  set_target_properties(iovad_${library} PROPERTIES EXPORT_NAME ${library})
  target_include_directories(iovad_${library} INTERFACE $<INSTALL_INTERFACE:${iovad_headers}>)
  install(TARGETS iovad_${library} EXPORT iovadTargets
          ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
          LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endforeach()
install(TARGETS iovad RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET iovactl)
  install(TARGETS iovactl RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# Where QEMU is told to load it from.
if(TARGET iovad_qemu_plugin)
  install(TARGETS iovad_qemu_plugin LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/iovad)
endif()

# Of the client, the library's headers; those of iovactl lie in folders of their
# own.
file(GLOB iovad_client_headers CONFIGURE_DEPENDS client/*.h)
install(FILES ${iovad_client_headers} DESTINATION ${iovad_headers}/client)
foreach(folder IN ITEMS mirror relay)
  file(GLOB folder_headers CONFIGURE_DEPENDS client/${folder}/*.h)
  install(FILES ${folder_headers} DESTINATION ${iovad_headers}/client/${folder})
endforeach()
install(FILES client/c/iovad_fd.h DESTINATION ${iovad_headers}/client/c)
# For programs in C, the header by itself, and pkg-config.
install(FILES client/c/iovad.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
file(RELATIVE_PATH IOVAD_PREFIX_FROM_PC
  /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(client/c/iovad.pc.in ${PROJECT_BINARY_DIR}/iovad.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/iovad.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
# The store is the daemon's alone.
install(DIRECTORY core DESTINATION ${iovad_headers} FILES_MATCHING PATTERN "*.h"
        PATTERN store EXCLUDE)
get_target_property(iovad_generated iovad_proto BINARY_DIR)
install(DIRECTORY ${iovad_generated}/ DESTINATION ${iovad_headers}
        FILES_MATCHING PATTERN "*.pb.h" PATTERN CMakeFiles EXCLUDE)
install(DIRECTORY proto/ DESTINATION ${CMAKE_INSTALL_DATADIR}/iovad/proto
        FILES_MATCHING PATTERN "*.proto")
install(FILES deploy/iovad.toml DESTINATION ${CMAKE_INSTALL_DATADIR}/iovad)

# Units name the programs where they are installed, which is decided then.
install(CODE "
  set(IOVAD_BINDIR \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}\")
  set(IOVAD_DATADIR \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_DATADIR}\")
  foreach(unit iovad.service iovad-relay@.service)
    configure_file(\"${PROJECT_SOURCE_DIR}/deploy/systemd/\${unit}.in\"
                   \"${PROJECT_BINARY_DIR}/systemd/\${unit}\" @ONLY)
    file(INSTALL \"${PROJECT_BINARY_DIR}/systemd/\${unit}\"
         DESTINATION \"\${CMAKE_INSTALL_PREFIX}/lib/systemd/system\")
  endforeach()")
install(FILES deploy/systemd/iovad.sysusers DESTINATION lib/sysusers.d RENAME iovad.conf)

configure_package_config_file(deploy/cmake/iovadConfig.cmake.in
  ${PROJECT_BINARY_DIR}/iovadConfig.cmake INSTALL_DESTINATION ${iovad_package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/iovadConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/iovadConfig.cmake ${PROJECT_BINARY_DIR}/iovadConfigVersion.cmake
        DESTINATION ${iovad_package})
install(EXPORT iovadTargets NAMESPACE iovad:: DESTINATION ${iovad_package})
